// Random calls about cache handles by several clients, against a model of what each must see.
#include "base/random.h"
#include "tests/unit/gateway/fake_support.h"
#include "tests/unit/gateway/http_support.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

struct Handle {
  std::string tenant, text;
};

class Clients {
 public:
  explicit Clients(uint64_t seed) : random_(seed), server_(Config(seed)) {}

  /// One call of one client; what it answers must be what the model says.
  void Step() {
    const std::string tenant = random_.Below(2) == 0 ? "alice" : "bob";
    switch (random_.Below(8)) {
      case 0: return Create(tenant);
      case 1: return Fork(tenant, Pick());
      case 2: return Crop(tenant, Pick());
      case 3: return Extend(tenant, Pick());
      case 4: return Delete_(tenant, Pick());
      case 5: return Use(tenant, Pick());
      case 6: return List(tenant);
      default: return See(tenant, Pick());
    }
  }
  size_t size() const { return handles_.size(); }

 private:
  static GatewayConfig Config(uint64_t seed) {
    GatewayConfig config;
    config.tenants = {{"alice", "alice-key"}, {"bob", "bob-key"}};
    config.seed = seed;
    return config;
  }
  static std::string Key(const std::string& tenant) { return "Authorization: Bearer " + tenant + "-key\r\n"; }
  HttpReply Post_(const std::string& tenant, const std::string& path, const Json& body) { return Post(server_.port(), path, body, Key(tenant)); }
  std::string Text(size_t most) {
    std::string text;
    for (size_t n = 1 + random_.Below(most); n > 0; --n) text += static_cast<char>('a' + random_.Below(3));
    return text;
  }
  /// An id that is there, was there, or never was.
  std::string Pick() {
    if (ids_.empty() || random_.Below(10) == 0) return "cache_" + std::string(32, '0');
    return ids_[random_.Below(ids_.size())];
  }
  bool Owns(const std::string& tenant, const std::string& id) const { return handles_.contains(id) && handles_.at(id).tenant == tenant; }
  /// Whether the client may do this; if not, that it was told so.
  bool Allowed(const std::string& tenant, const std::string& id, const HttpReply& reply) {
    if (Owns(tenant, id)) return true;
    EXPECT_EQ(reply.status, 404) << reply.body;
    EXPECT_EQ(reply.error()["code"], "cache_not_found");
    return false;
  }
  void Create(const std::string& tenant) {
    const std::string text = Text(200);
    const HttpReply reply = Post_(tenant, "/v1/caches", {{"prompt", text}});
    ASSERT_EQ(reply.status, 200) << reply.body;
    ids_.push_back(reply.json()["id"]);
    handles_[ids_.back()] = {tenant, text};
  }
  void Fork(const std::string& tenant, const std::string& id) {
    const HttpReply reply = Post_(tenant, "/v1/caches/" + id + "/fork", Json::object());
    if (!Allowed(tenant, id, reply)) return;
    ASSERT_EQ(reply.status, 200) << reply.body;
    ids_.push_back(reply.json()["id"]);
    handles_[ids_.back()] = handles_[id];
  }
  void Crop(const std::string& tenant, const std::string& id) {
    const auto length = static_cast<int64_t>(random_.Below(220)) - 10;
    const HttpReply reply = Post_(tenant, "/v1/caches/" + id + "/crop", {{"length", length}});
    if (!Allowed(tenant, id, reply)) return;
    std::string& text = handles_[id].text;
    const auto size = static_cast<int64_t>(text.size());
    const int64_t keep = length < 0 ? size + length : length;
    ASSERT_EQ(reply.status, keep >= 1 && keep <= size ? 200 : 422) << reply.body;
    if (reply.status == 200) text.resize(static_cast<size_t>(keep));
  }
  void Extend(const std::string& tenant, const std::string& id) {
    const std::string more = Text(20);
    const HttpReply reply = Post_(tenant, "/v1/caches/" + id + "/extend", {{"prompt", more}});
    if (!Allowed(tenant, id, reply)) return;
    ASSERT_EQ(reply.status, 200) << reply.body;
    handles_[id].text += more;
    EXPECT_EQ(reply.json()["tokens"], handles_[id].text.size());
  }
  void Delete_(const std::string& tenant, const std::string& id) {
    const HttpReply reply = Delete(server_.port(), "/v1/caches/" + id, Key(tenant));
    if (!Allowed(tenant, id, reply)) return;
    ASSERT_EQ(reply.status, 200) << reply.body;
    handles_.erase(id);
    EXPECT_FALSE(server_.backend().kept().contains(id));
  }
  void Use(const std::string& tenant, const std::string& id) {
    const bool right = random_.Below(2) == 0;
    const std::string prompt = right && Owns(tenant, id) ? handles_[id].text + Text(5) : Text(200);
    const HttpReply reply = Post_(tenant, "/v1/completions", {{"prompt", prompt}, {"cache_id", id}});
    if (!Allowed(tenant, id, reply)) return;
    EXPECT_EQ(reply.status, prompt.starts_with(handles_[id].text) ? 200 : 422) << reply.body;
  }
  void List(const std::string& tenant) {
    std::set<std::string> want, got;
    for (const auto& [id, handle] : handles_) {
      if (handle.tenant == tenant) want.insert(id);
    }
    const auto list = Get(server_.port(), "/v1/caches", Key(tenant)).json();
    for (const auto& row : list["data"]) got.insert(row["id"].get<std::string>());
    EXPECT_EQ(got, want);
  }
  void See(const std::string& tenant, const std::string& id) {
    const HttpReply reply = Get(server_.port(), "/v1/caches/" + id, Key(tenant));
    if (!Allowed(tenant, id, reply)) return;
    EXPECT_EQ(reply.json()["tokens"], handles_[id].text.size());
    EXPECT_EQ(reply.json()["blocks"], handles_[id].text.size() / 64);
    EXPECT_EQ(FakeCodec().Decode(server_.backend().kept().at(id).tokens), handles_[id].text) << "the store was told the same";
  }

  Random random_;
  GatewayServer server_;
  std::map<std::string, Handle> handles_;
  std::vector<std::string> ids_;
};

TEST(CacheHandlesModel, RandomCallsSeeWhatTheModelSees) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Clients clients(seed);
    for (int step = 0; step < 150 && !::testing::Test::HasFailure(); ++step) clients.Step();
    EXPECT_GT(clients.size(), 0u);
  }
}

TEST(CacheHandlesModel, ManyClientsAtOnce) {
  GatewayServer server;
  const std::string shared = Post(server.port(), "/v1/caches", {{"prompt", "shared"}}).json()["id"];
  std::vector<std::thread> clients;
  std::atomic<int> wrong{0};
  for (int c = 0; c < 6; ++c) {
    clients.emplace_back([&server, &shared, &wrong, c] {
      const auto expect = [&wrong](bool right) { wrong += right ? 0 : 1; };
      for (int i = 0; i < 15; ++i) {
        const std::string text(static_cast<size_t>(70 + c), static_cast<char>('a' + c));
        const std::string id = Post(server.port(), "/v1/caches", {{"prompt", text}}).json().value("id", "");
        expect(Get(server.port(), "/v1/caches/" + id).json().value("tokens", 0) == 70 + c);
        expect(Post(server.port(), "/v1/completions", {{"prompt", text + "x"}, {"cache_id", id}}).status == 200);
        const int changed = Post(server.port(), "/v1/caches/" + shared + "/extend", {{"prompt", "x"}}).status;
        expect(changed == 200 || changed == 409);
        expect(Delete(server.port(), "/v1/caches/" + id).status == 200);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(wrong, 0);
  const auto left = Get(server.port(), "/v1/caches").json()["data"];
  ASSERT_EQ(left.size(), 1u) << left;
  const size_t tokens = left[0]["tokens"];
  EXPECT_EQ(server.backend().kept().at(shared).tokens.size(), tokens) << "gateway and store agree on the contended one";
  EXPECT_GT(tokens, std::string("shared").size());
}

}  // namespace
}  // namespace baton
