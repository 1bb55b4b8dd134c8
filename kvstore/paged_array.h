// Elements by small numbers that come and go: an array in pages that exist only while something on them does, so that a tier
// of a few blocks costs little however high their numbers are, and one of ten million has no slack.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/check.h"

namespace baton {

/// Thread: one at a time. References stay until their element is erased.
template <typename T>
class PagedArray {
 public:
  /// The element of this number; a new one (T{}) where there is none.
  T& Make(uint32_t id) {
    if (id / kPage >= pages_.size()) pages_.resize(id / kPage + 1);
    std::unique_ptr<Page>& page = pages_[id / kPage];
    if (!page) page = std::make_unique<Page>();
    page->used.set(id % kPage);
    return page->items[id % kPage];
  }
  /// Null where there is none.
  T* Find(uint32_t id) { return Has(id) ? &pages_[id / kPage]->items[id % kPage] : nullptr; }
  const T* Find(uint32_t id) const { return Has(id) ? &pages_[id / kPage]->items[id % kPage] : nullptr; }
  T& operator[](uint32_t id) {
    CHECK(Has(id));
    return pages_[id / kPage]->items[id % kPage];
  }
  bool Has(uint32_t id) const { return id / kPage < pages_.size() && pages_[id / kPage] && pages_[id / kPage]->used.test(id % kPage); }
  void Erase(uint32_t id) {
    CHECK(Has(id));
    std::unique_ptr<Page>& page = pages_[id / kPage];
    page->items[id % kPage] = T{};
    page->used.reset(id % kPage);
    if (page->used.none()) page.reset();
  }

 private:
  static constexpr size_t kPage = 256;
  struct Page {
    std::bitset<kPage> used;
    T items[kPage];
  };
  std::vector<std::unique_ptr<Page>> pages_;
};

}  // namespace baton
