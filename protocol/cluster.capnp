@0xd4a1c1f6be0f3a52;
# The control plane of a cluster. Every rank listens on one port. A connection begins with a greeting that is no RPC
# (protocol/greeting.h: versions, and the proof that both sides know the cluster key); behind it the bootstrap is a Node, whose
# services are capabilities. Workers dial each other directly: a route answers with addresses, never with proxied capabilities, so the
# coordinator is out of the picture once it has answered. KV bytes never pass here: they move over a Transport, by transfer id.
# Failures that a peer can act on travel as WireStatus in the answer; a kj exception means that the peer is gone.
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("baton::wire");
using Common = import "common.capnp";

struct WireStatus {
  code @0 :UInt16;   # StatusCode; 0 = ok
  message @1 :Text;
}

interface Node {
  services @0 () -> (coordinator :Coordinator, decode :Decode, prefill :Prefill, store :Store, inspect :Inspect);
  # A capability is null where this rank has no such role.
}

interface Inspect {
  metrics @0 () -> (text :Text);
  # Prometheus' text format, of this rank alone.
}

# ---- membership ----

struct ModelIdentity {
  fingerprint @0 :Data;     # ModelInfo::fingerprint, 32 bytes
  kvLayout @1 :Text;        # KvLayout::ToString()
  numerics @2 :Text;
  blockTokens @3 :UInt32;
  blockBytes @4 :UInt64;
  vocab @5 :UInt32;
  maxPositions @6 :UInt32;
  modelName @7 :Text;
  kvDtype @8 :Text;
  eosIds @9 :List(Int32);
}

struct WorkerInfo {
  name @0 :Text;            # unique in the cluster: a restarted worker comes back under its name
  roles @1 :List(Text);
  address @2 :Common.Address;
  transportKind @3 :Text;
  transportAddress @4 :Text;
  model @5 :ModelIdentity;  # of prefill and decode workers
  pid @6 :UInt32;
  hostname @7 :Text;
  kvBlocks @8 :UInt32;
}

struct Member {
  id @0 :UInt32;
  incarnation @1 :UInt64;
  info @2 :WorkerInfo;
  draining @3 :Bool;
}

struct Load {
  running @0 :UInt32;
  waiting @1 :UInt32;
  queuedPrefillTokens @2 :UInt64;
  prefillTokensPerS @3 :Float64;
  decodeStepS @4 :Float64;
  freeBlocks @5 :UInt32;
  totalBlocks @6 :UInt32;
  transferBytesPerS @7 :Float64;
  storeBytesPerS @8 :Float64;
  steps @9 :UInt64;         # of the engine, since its start: work without steps is a hang
  stepModel @10 :StepModel;
  paths @11 :List(PathSpeed);
}
struct StepModel {           # seconds of an engine step as a sum, fitted to the steps that were measured; all 0: too few yet
  baseS @0 :Float64;
  tokenS @1 :Float64;       # a new token of a prompt
  pairS @2 :Float64;        # a new token of a prompt, for each token before it
  rowS @3 :Float64;         # a stream that decodes beside
}
struct PathSpeed {          # of hand-offs to one other worker
  peer @0 :UInt32;
  bytesPerS @1 :Float64;
}

struct KeyEvent {
  added @0 :Bool;
  key @1 :Data;             # 32 bytes
}

interface WorkerSession {
  # What a registered worker holds; dropping it (or losing the connection) is leaving.
  heartbeat @0 (sequence :UInt64, load :Load, events :List(KeyEvent), snapshot :Bool, draining :Bool, membershipVersion :UInt64,
               heldBlocks :UInt64, heldSum :UInt64)
      -> (status :WireStatus, resync :Bool, membershipVersion :UInt64, members :List(Member), drain :Bool);
  # Numbered from 1. `snapshot`: the events are all that is held. `resync`: a heartbeat was lost, send a snapshot next.
  # Members are sent when the caller's version is old. A status that is not ok (kAborted): this incarnation was declared
  # dead; register again. `drain`: an administrator asks this worker to leave. `heldBlocks` and `heldSum` (BlockKey::Prefix64
  # added up) are what the events so far come to: where the coordinator counts otherwise, it asks for a snapshot.
  announce @1 (transportKind :Text, transportAddress :Text) -> (status :WireStatus);
  # The worker is ready: it is routed to from now on. Its transport needs the id that register gave, hence the second step.
}

interface Coordinator {
  register @0 (info :WorkerInfo, formerId :UInt32, formerIncarnation :UInt64)
      -> (status :WireStatus, id :UInt32, incarnation :UInt64, session :WorkerSession);
  # `former`: what an earlier life of the coordinator gave; kept by one that does not know the worker, so that what its peers
  # hold of it stays true. 0 where there is none; the incarnation also where the worker was told that it is over, or stood still.
  route @1 (query :RouteQuery) -> (status :WireStatus, retryAfterS :Float64, plan :Plan);
  card @2 () -> (status :WireStatus, model :ModelIdentity);
  # kUnavailable until a worker of each role is there.
  finished @3 (requestId :UInt64, ttftS :Float64, totalS :Float64, promptTokens :UInt32, cachedTokens :UInt32, ok :Bool,
              queueS :Float64, prefillS :Float64, decodeS :Float64, generatedTokens :UInt32, moves :UInt32);
  clusterJson @4 () -> (json :Text);
  explainRoute @5 (query :RouteQuery) -> (json :Text);
  drain @6 (worker :UInt32) -> (status :WireStatus);
  metrics @7 () -> (text :Text);
  explainRequest @8 (requestId :UInt64) -> (status :WireStatus, json :Text);
  role @9 (worker :UInt32, role :Text) -> (status :WireStatus);
}

struct RouteQuery {
  requestId @0 :UInt64;
  tenant @1 :Text;
  keys @2 :List(Data);      # the chain of the prompt's full blocks
  promptTokens @3 :UInt32;
  maxTokens @4 :UInt32;
  priority @5 :Int32;
  avoid @6 :List(UInt32);   # workers that just failed this request
  moved @7 :Bool;           # a stream that goes on elsewhere: not subject to admission
}

struct Plan {
  decode @0 :Member;
  prefill @1 :List(Member); # in the order to try; empty: prefill on the decode worker
  reason @2 :Text;          # for x-baton-route
}

# ---- generation ----

struct LogitBias { token @0 :Int32; bias @1 :Float32; }
struct Sampling {
  temperature @0 :Float64;
  topP @1 :Float64;
  minP @2 :Float64;
  typicalP @3 :Float64;
  repetitionPenalty @4 :Float64;
  presencePenalty @5 :Float64;
  frequencyPenalty @6 :Float64;
  topK @7 :UInt32;
  noRepeatNgram @8 :UInt32;
  seed @9 :UInt64;
  logitBias @10 :List(LogitBias);
  logprobs @11 :Int32;
  minTokens @12 :UInt32;
  grammar @13 :Text;        # GBNF that the answer must follow; empty: any text
}
struct GenerateRequest {
  id @0 :UInt64;
  tenant @1 :Text;
  prompt @2 :List(Int32);
  maxTokens @3 :UInt32;
  generated @4 :UInt32;
  sampling @5 :Sampling;
  ignoreEos @6 :Bool;
  stopTokens @7 :List(Int32);
  priority @8 :Int32;
  deadlineS @9 :Float64;
  root @10 :Data;           # the root of the request's key chain
  prediction @11 :List(Int32);  # what the client expects in the answer: guesses for speculation
  keep @12 :Bool;           # a cache handle wants its blocks in the store, also those that a worker finds in its own pool
}
struct TokenLogprob { token @0 :Int32; logprob @1 :Float32; }
struct TokenEvent {
  token @0 :Int32;
  logprob @1 :Float32;
  top @2 :List(TokenLogprob);
  predicted @3 :Bool;       # it was guessed, and so cost no step of its own
  rejectedTokens @4 :UInt32;  # guesses that were checked with it and thrown away
}
struct Stats {
  promptTokens @0 :UInt32;
  cachedTokens @1 :UInt32;
  cacheWriteTokens @2 :UInt32;
  queueS @3 :Float64;
  prefillS @4 :Float64;
  decodeS @5 :Float64;
  route @6 :Text;
}

interface TokenSink {
  route @0 (stats :Stats) -> stream;
  # Before the first token: the token counts and what really happened, who prefilled and where the prefix came from.
  tokens @1 (batch :List(TokenEvent)) -> stream;
  end @2 (reason :UInt8, stats :Stats) -> ();
  # After the last token. Only an answer that got its `end` is complete; a generate that fails before it may be moved.
}
interface Decode {
  generate @0 (request :GenerateRequest, prefill :List(Member), sink :TokenSink) -> (status :WireStatus);
  # Owns the request: reserves blocks, asks the first reachable of `prefill` to compute the missing ones, computes them itself
  # where none answers. Cancelled by dropping the call.
}

# ---- hand-off ----

struct Digest { low @0 :UInt64; high @1 :UInt64; }
struct TransferTarget {
  transfer @0 :UInt64;
  worker @1 :UInt32;        # the receiver
  incarnation @2 :UInt64;
  transportAddress @3 :Text;
  deadlineS @4 :Float64;
}
interface Prefill {
  prefill @0 (request :GenerateRequest, firstBlock :UInt32, target :TransferTarget)
      -> (status :WireStatus, firstToken :TokenEvent, stats :Stats, digests :Digests);
  # Computes the prompt and pushes blocks [firstBlock, ceil(promptTokens / blockTokens)) into the target's landings, landing
  # (b - firstBlock) * layers + layer, each layer as soon as it is computed. Answers with the first token at once, while
  # the last bytes travel. Dropping the call, then `digests`, cancels the transfer.
}
interface Digests {
  get @0 () -> (digests :List(Digest));
  # Of the pushed blocks, in order, over all of a block's bytes.
}

# ---- store ----

struct BlockHeader {
  key @0 :Data;
  parent @1 :Data;
  digest @2 :Digest;
  tokens @3 :UInt32;
  depth @4 :UInt32;
  tokenIds @5 :List(Int32);
  tenant @6 :Text;          # on a chain's first block: whose it is, without the mark of a cache_salt
}
struct CacheRecord {        # a cache handle: which tokens' blocks are held, for whom and how long
  id @0 :Text;
  tenant @1 :Text;          # with a cache_salt's part after its '/'
  tokens @2 :List(Int32);
  createdUnixS @3 :Float64;
  expiresUnixS @4 :Float64; # 0: never
}
struct HeldBlocks {
  held @0 :UInt32;          # leading keys that are held
  memory @1 :UInt32;        # blocks in each tier
  disk @2 :UInt32;
  bytes @3 :UInt64;
}
interface Store {
  open @0 (keys :List(Data)) -> (status :WireStatus, headers :List(BlockHeader), lease :StoreLease);
  # The longest prefix of `keys` that is held and verifies; the lease keeps those bytes in memory until it is dropped.
  put @1 (headers :List(BlockHeader), blockBytes :UInt64, from :UInt32, transportAddress :Text)
      -> (status :WireStatus, wanted :List(UInt32), target :TransferTarget, session :PutSession);
  # `wanted` are the indices of headers that the store does not hold; their bytes are pushed into landings 0, 1, …
  lookup @2 (keys :List(Data)) -> (count :UInt32);
  stats @3 () -> (json :Text);
  flush @4 () -> (status :WireStatus);
  hold @5 (record :CacheRecord, keys :List(Data), all :Bool) -> (status :WireStatus, blocks :HeldBlocks);
  # Keeps what is held of `keys` from eviction, and the record, until it expires; a record of the same id is replaced. With
  # `all`, nothing changes unless every key is held: `blocks` says how many are. kInvalid: more than could ever be held;
  # kExhausted: quota or room for holds is used up now.
  release @6 (id :Text) -> (status :WireStatus);
  holds @7 (tenant :Text, id :Text, after :Text) -> (records :List(CacheRecord), more :Bool);
  # A tenant's records (its salts' included) behind the id `after`, in order of their ids; an `id` asks for that one only.
  explain @8 (root :Data, tokens :List(Int32), blockTokens :UInt32) -> (status :WireStatus, json :Text);
  # For each full block of the tokens: where it is, or why it is not.
}
interface StoreLease {
  push @0 (target :TransferTarget) -> (status :WireStatus);
  # Landing i receives block i. Answers when all bytes have been handed to the transport.
}
interface PutSession {
  finish @0 () -> (status :WireStatus, stored :UInt32);
  # Waits until the bytes have landed, verified and been taken. Dropping the session cancels the transfer.
}
