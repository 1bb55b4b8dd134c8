// The warming job of `baton warm`: reads a corpus, plans, and has the cluster compute what its stores do not hold.
#pragma once

#include <memory>
#include <string>

#include "app/rank.h"
#include "app/warm_corpus.h"
#include "app/warm_driver.h"
#include "app/warm_plan.h"

namespace baton {

struct WarmOptions {
  std::string input;  // JSON lines, see warm_corpus.h
  double limit_tokens_per_s = 0;
  uint32_t requests = 8;
  bool show_progress = false;  // a bar on stderr
};

/// What the job did, as far as it came. Filled on the rank that did it.
struct WarmReport {
  CorpusCount corpus;
  WarmProgress progress;
  uint64_t prefixes = 0;  // distinct ones of a block or more
  uint64_t block_bytes = 0;
  double seconds = 0;     // of computing and writing
  bool started = false;
};

/// One line for a terminal, without its end: bar, share, blocks, speed, time left.
std::string ProgressLine(const WarmProgress& progress, double seconds);

/// Thread: the main one, which runs the loop.
class WarmJob final : public RankJob {
 public:
  explicit WarmJob(WarmOptions options) : options_(std::move(options)) {}
  /// Reads the corpus; bad lines are reported on stderr, counted and left out. Errors: kInvalid (no store.path, tenants without
  /// a cluster.key), kNotFound (the input, the model), those of DescribeModel and LoadTextCodec.
  Status Prepare(const Config& config) override;
  kj::Promise<Status> Run(RankContext& context, ClusterBackend& backend) override;
  const WarmReport& report() const { return report_; }

 private:
  class Work;
  const WarmOptions options_;
  WarmReport report_;
  std::unique_ptr<WarmPlan> plan_;
};

}  // namespace baton
