#include "app/model_flags.h"

namespace baton {

void AddModelFlags(CLI::App& command, LoadOptions& o) {
  command.add_option("--model", o.path, "GGUF file or folder of safetensors")->required();
  command.add_option("--numerics", o.numerics, "exact, fast, bf16 or f32; default: exact for quantised files, else the checkpoint's own");
  command.add_option("--kv-dtype", o.kv_dtype, "f32, f16, bf16 or int8")->capture_default_str();
  command.add_option("--threads", o.threads, "compute threads; 0: one a core")->check(CLI::Range(0, 1024))->capture_default_str();
  command.add_option("--isa", o.isa, "auto, scalar, avx2 or avx512")->capture_default_str();
  command.add_option("--weights-cache", o.weights_cache, "folder of repacked weights that processes share; auto: in the user's cache folder; none")->capture_default_str();
  command.add_option("--device", o.device, "auto, cpu or cuda")->capture_default_str();
}

}  // namespace baton
