#include <algorithm>
#include <thread>

#include "model/transformer.h"
#include "model/weight_memory.h"

namespace baton {

std::string_view NumericsName(Numerics numerics) {
  static constexpr std::string_view kNames[] = {"exact", "fast", "bf16", "f32"};
  const auto index = static_cast<size_t>(numerics);
  return index < 4 ? kNames[index] : "unknown";
}

Result<Numerics> ParseNumerics(std::string_view name) {
  for (const Numerics n : {Numerics::kExact, Numerics::kFast, Numerics::kBf16, Numerics::kF32}) {
    if (NumericsName(n) == name) return n;
  }
  return InvalidError("there are no numerics \"{}\"; give exact, fast, bf16 or f32", name);
}

namespace {

Result<Numerics> ChooseNumerics(const std::string& asked, const WeightFile& file) {
  if (!asked.empty()) {
    ASSIGN_OR_RETURN(const Numerics numerics, ParseNumerics(asked));
    if (!file.info().quantised && (numerics == Numerics::kExact || numerics == Numerics::kFast)) {
      return InvalidError("numerics {} are for quantised files; {} is not one: give bf16 or f32", asked, file.info().name);
    }
    return numerics;
  }
  if (file.info().quantised) return Numerics::kExact;
  const Tensor* embedding = file.Find("model.embed_tokens.weight");
  return embedding != nullptr && embedding->type == TensorType::kBF16 ? Numerics::kBf16 : Numerics::kF32;
}

/// The file's description; it stays open for who goes on to load it.
Result<ModelDescription> Describe(const LoadOptions& options, const WeightFile& file) {
  if (options.block_tokens == 0 || options.block_tokens > 4096) return InvalidError("block_tokens {} is not within 1 to 4096", options.block_tokens);
  ASSIGN_OR_RETURN(const KvDtype dtype, ParseKvDtype(options.kv_dtype));
  ASSIGN_OR_RETURN(const Numerics numerics, ChooseNumerics(options.numerics, file));
  const ModelInfo& info = file.info();
  return ModelDescription{info, KvLayout{info.layers, info.kv_heads, info.head_dim, options.block_tokens, dtype}, numerics};
}

}  // namespace

Result<ModelDescription> DescribeModel(const LoadOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<WeightFile> file, OpenWeights(options.path));
  return Describe(options, *file);
}

Result<std::unique_ptr<Model>> LoadModel(const LoadOptions& options) {
  if (options.device == "cuda") return UnavailableError("device cuda: this build has no CUDA backend; give --device cpu");
  if (options.device != "auto" && options.device != "cpu") return InvalidError("there is no device \"{}\"; give auto, cpu or cuda", options.device);
  if (options.threads > 1024) return InvalidError("{} threads are too many; give 1 to 1024, or 0 for one a core", options.threads);
  ASSIGN_OR_RETURN(const Kernels* kernels, SelectKernels(options.isa));
  ASSIGN_OR_RETURN(const std::unique_ptr<WeightFile> file, OpenWeights(options.path));
  ASSIGN_OR_RETURN(const ModelDescription described, Describe(options, *file));
  const unsigned threads = options.threads != 0 ? options.threads : std::max(1u, std::thread::hardware_concurrency());
  const std::string& cache = options.weights_cache;
  const std::string folder = cache == "auto" ? UserCacheFolder() : cache == "none" ? std::string() : cache;
  return MakeTransformer(*file, described.numerics, described.layout, *kernels, threads, folder);
}

}  // namespace baton
