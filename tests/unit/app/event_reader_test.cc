// Server-sent events as other servers write them, however the network cuts them; and the addresses that clients are given.
#include <cstring>

#include "app/http_client.h"
#include "base/random.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

using testing::HasSubstr;
using Texts = std::vector<std::string>;

Texts Read(const std::vector<std::string>& pieces) {
  Texts data;
  EventReader reader;
  for (const std::string& piece : pieces) EXPECT_TRUE(reader.Push(piece, [&data](std::string_view text) { data.emplace_back(text); }));
  return data;
}

struct EventsCase {
  const char* name;
  std::string stream;
  Texts data;
};
class EventsTest : public testing::TestWithParam<EventsCase> {};

/// All at once, cut in two at each place, and byte by byte.
TEST_P(EventsTest, AreTheSameHoweverTheyAreCut) {
  const auto& [name, stream, data] = GetParam();
  EXPECT_EQ(Read({stream}), data);
  for (size_t cut = 0; cut <= stream.size(); ++cut) EXPECT_EQ(Read({stream.substr(0, cut), stream.substr(cut)}), data) << cut;
  Texts bytes;
  for (const char c : stream) bytes.emplace_back(1, c);
  EXPECT_EQ(Read(bytes), data);
}

INSTANTIATE_TEST_SUITE_P(
    All, EventsTest,
    testing::Values(EventsCase{"lf", "data: a\n\ndata: b\n\n", {"a", "b"}}, EventsCase{"crlf", "data: a\r\n\r\ndata: b\r\n\r\n", {"a", "b"}},
                    EventsCase{"cr", "data: a\r\rdata: b\r\r", {"a", "b"}}, EventsCase{"mixed", "data: a\r\n\ndata: b\n\r\ndata: c\r\r\n", {"a", "b", "c"}},
                    EventsCase{"no_space", "data:a\n\ndata:{\"x\": 1}\n\n", {"a", "{\"x\": 1}"}}, EventsCase{"one_space_of_two", "data:  a\n\n", {" a"}},
                    EventsCase{"lines_are_joined", "data: a\ndata: b\ndata\ndata:c\n\n", {"a\nb\n\nc"}}, EventsCase{"empty_data", "data:\n\ndata: \n\ndata\n\n", {"", "", ""}},
                    EventsCase{"other_fields", "event: x\nid: 7\nretry: 10\ndata: a\nunknown: y\n\n", {"a"}}, EventsCase{"fields_alone", "event: ping\n\nid: 1\n\n", {}},
                    EventsCase{"comments", ": keep-alive\n\n:\n\ndata: a\n: in between\n\n", {"a"}}, EventsCase{"blank_lines", "\n\n\r\n\r\ndata: a\n\n\n\n", {"a"}},
                    EventsCase{"no_end", "data: a\n\ndata: b\n", {"a"}}, EventsCase{"no_end_of_line", "data: a\n\ndata: b", {"a"}},
                    EventsCase{"names_that_begin_alike", "datax: a\nxdata: b\ndat: c\nDATA: d\n data: e\n\n", {}}, EventsCase{"colons_in_data", "data: a: b\n\ndata::c\n\n", {"a: b", ":c"}},
                    EventsCase{"zero_bytes", std::string("data: a\0b\n\n", 11), {std::string("a\0b", 3)}}, EventsCase{"nothing", "", {}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(EventReaderTest, RandomStreamsComeBackWhateverTheirLineEndsAndCuts) {
  Random random(11);
  const char* const ends[] = {"\n", "\r\n", "\r"};
  for (int round = 0; round < 300; ++round) {
    std::string stream;
    Texts data;
    const char* end = ends[random.Below(3)];
    for (uint64_t events = random.Below(8); events > 0; --events) {
      Texts lines;
      for (uint64_t n = 1 + random.Below(3); n > 0; --n) {
        std::string line;
        for (uint64_t size = random.Below(12); size > 0; --size) line += "a:{} \"\xc3\xa9"[random.Below(8)];
        lines.push_back(line);
      }
      std::string joined;
      for (size_t i = 0; i < lines.size(); ++i) {
        joined += (i == 0 ? "" : "\n") + lines[i];
        if (random.Below(4) == 0) stream += std::string(": note") + end;
        stream += "data: " + lines[i] + end;
      }
      stream += end;
      data.push_back(joined);
    }
    std::vector<std::string> pieces;
    for (size_t at = 0; at < stream.size();) {
      const size_t size = 1 + random.Below(9);
      pieces.push_back(stream.substr(at, size));
      at += size;
    }
    ASSERT_EQ(Read(pieces), data) << "round " << round;
  }
}

TEST(EventReaderTest, AnEventWithoutAnEndIsGivenUp) {
  const std::string piece(1 << 20, 'x');
  for (const std::string& filler : {piece, "data: " + piece + "\n"}) {  // one line for ever, or line after line
    EventReader reader;
    size_t taken = 0;
    bool fits = reader.Push("data: a\n\ndata: ", [](std::string_view data) { EXPECT_EQ(data, "a"); });
    while (fits && taken < 2 * kMaxAnswerBytes) {
      fits = reader.Push(filler, [](std::string_view) { FAIL() << "an event that never ended"; });
      taken += filler.size();
    }
    EXPECT_FALSE(fits);
    EXPECT_LE(taken, kMaxAnswerBytes + 2 * filler.size());
  }
}

TEST(EventReaderTest, WhatWasReadIsNotKept) {
  EventReader reader;  // many times the limit in all, but each event is short
  const std::string event = "data: " + std::string(1 << 20, 'y') + "\n\n";
  size_t events = 0;
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(reader.Push(event, [&events](std::string_view data) { events += data.size() == 1 << 20; }));
  EXPECT_EQ(events, 100u);
}

struct UrlCase {
  const char* text;
  const char* host;
  uint16_t port;
  const char* prefix;
};
TEST(UrlTest, EveryWriting) {
  const std::vector<UrlCase> cases = {{"http://a", "a", 80, ""},          {"a", "a", 80, ""},
                                      {"a:1", "a", 1, ""},                {"a:65535", "a", 65535, ""},
                                      {"http://a:8000/", "a", 8000, ""},  {"http://a:8000///", "a", 8000, ""},
                                      {"http://a/v1/x", "a", 80, "/v1/x"}, {"a:7/p/", "a", 7, "/p"},
                                      {"[::1]", "[::1]", 80, ""},         {"http://[::1]:9/x", "[::1]", 9, "/x"},
                                      {"a:0080", "a", 80, ""},            {"a/b:c", "a", 80, "/b:c"},
                                      {"example.com:8000", "example.com", 8000, ""}};
  for (const UrlCase& c : cases) {
    const auto url = ParseUrl(c.text);
    ASSERT_TRUE(url.ok()) << c.text << ": " << url.status().ToString();
    EXPECT_EQ(url->host, c.host) << c.text;
    EXPECT_EQ(url->port, c.port) << c.text;
    EXPECT_EQ(url->prefix, c.prefix) << c.text;
  }
}

TEST(UrlTest, WhatIsNoneIsNamedWithWhatToWrite) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"https://a", "https is not supported"}, {"", "names no host"},        {"http://", "names no host"},      {"http:///v1", "names no host"}, {":80", "names no host"},
      {"a:", "from 1 to 65535"},               {"a:0", "from 1 to 65535"},   {"a:65536", "from 1 to 65535"},    {"a:-1", "from 1 to 65535"},     {"a:8o", "from 1 to 65535"},
      {"a:+80", "from 1 to 65535"},            {"a:80 ", "may not"},         {"http://user:pw@a", "may not"},   {"a?x=1", "may not"},            {"a#b", "may not"},
      {"a b", "may not"},                      {"a/b\r\nX-Evil: 1", "may not"}, {"ftp://a", "from 1 to 65535"}, {"::1", "brackets"},             {"fe80::1:8000", "brackets"},
      {"[::1", "brackets"},                    {"::1]:80", "brackets"}};
  for (const auto& [text, words] : cases) {
    const auto url = ParseUrl(text);
    ASSERT_EQ(url.status().code(), StatusCode::kInvalid) << text;
    EXPECT_THAT(url.status().message(), HasSubstr(words)) << text;
    EXPECT_THAT(url.status().message(), HasSubstr("\"" + text + "\"")) << "it says what it was given";
  }
}

TEST(HttpAnswerTest, TheErrorsMessageOrWhatThereIs) {
  const std::vector<std::pair<std::string, std::string>> cases = {{R"({"error":{"message":"no room","type":"x"}})", "no room"},
                                                                  {R"({"error":{"message":""}})", R"({"error":{"message":""}})"},
                                                                  {R"({"error":{"message":5}})", R"({"error":{"message":5}})"},
                                                                  {R"({"error":"text"})", R"({"error":"text"})"},
                                                                  {R"(["error"])", R"(["error"])"},
                                                                  {"<html>", "<html>"},
                                                                  {"", "HTTP status 503 without a word"}};
  for (const auto& [body, message] : cases) EXPECT_EQ((HttpAnswer{.status = 503, .body = body}.ErrorMessage()), message) << body;
  EXPECT_EQ((HttpAnswer{.status = 502, .body = std::string(1 << 20, 'p')}.ErrorMessage().size()), 2000u) << "a page is not printed whole";
  const std::string deep = std::string(1 << 20, '[');
  EXPECT_EQ((HttpAnswer{.status = 500, .body = deep}.ErrorMessage()), deep.substr(0, 2000)) << "nested for ever";
}

}  // namespace
}  // namespace baton
