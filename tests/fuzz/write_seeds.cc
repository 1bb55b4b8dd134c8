// write_seeds FOLDER: the hostile shapes as files, a folder for each fuzz target.
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tests/fuzz/hostile_files.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  for (const auto& [target, files] : baton::AllHostileFiles()) {
    const auto folder = std::filesystem::path(argv[1]) / target;
    std::filesystem::create_directories(folder);
    for (const baton::HostileFile& file : files) std::ofstream(folder / file.name, std::ios::binary) << file.content;
    std::printf("%s: %zu files\n", folder.c_str(), files.size());
  }
  return 0;
}
