// Trace files in a temporary folder.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/support/test_pch.h"

namespace baton {

class TraceFileTest : public ::testing::Test {
 protected:
  TraceFileTest() {
    std::string folder = (std::filesystem::temp_directory_path() / "baton_trace_XXXXXX").string();
    folder_ = mkdtemp(folder.data());
  }
  ~TraceFileTest() override { std::filesystem::remove_all(folder_); }
  std::string Write(const std::string& text) {
    const std::string path = folder_ / "trace.jsonl";
    std::ofstream(path) << text;
    return path;
  }
  std::filesystem::path folder_;
};

}  // namespace baton
