#include "kvstore/extent_space.h"

#include <algorithm>

#include "base/check.h"

namespace baton {

ExtentSpace::ExtentSpace(uint32_t pages, uint32_t file_pages) : end_(pages), file_pages_(file_pages) {}

uint32_t ExtentSpace::FileEnd(uint32_t page) const {
  return static_cast<uint32_t>(std::min<uint64_t>(end_, (uint64_t{page} / file_pages_ + 1) * file_pages_));
}

void ExtentSpace::RaiseMark(uint32_t to) {
  while (mark_ < to) {
    const uint32_t end = std::min(to, FileEnd(mark_));
    Insert(mark_, end - mark_);
    mark_ = end;
  }
}

void ExtentSpace::Insert(uint32_t page, uint32_t pages) {
  by_page_[page] = pages;
  by_length_.insert({pages, page});
  free_pages_ += pages;
}

void ExtentSpace::Erase(std::map<uint32_t, uint32_t>::iterator it) {
  free_pages_ -= it->second;
  by_length_.erase({it->second, it->first});
  by_page_.erase(it);
}

std::optional<uint32_t> ExtentSpace::Allocate(uint32_t pages) {
  if (pages == 0 || pages > file_pages_) return std::nullopt;
  const auto fit = by_length_.lower_bound({pages, 0});
  uint32_t page = mark_;
  if (fit != by_length_.end()) {
    page = fit->second;
  } else if (mark_ < end_ && pages > FileEnd(mark_) - mark_) {
    page = FileEnd(mark_);  // the rest of this file is too short
  }
  if (!Reserve(page, pages)) return std::nullopt;
  return page;
}

bool ExtentSpace::Reserve(uint32_t page, uint32_t pages) {
  if (pages == 0 || page >= end_ || pages > FileEnd(page) - page) return false;
  if (page >= mark_) {
    RaiseMark(page);
    mark_ = page + pages;
    return true;
  }
  auto it = by_page_.upper_bound(page);
  if (it == by_page_.begin()) return false;
  --it;
  const uint64_t begin = it->first, end = begin + it->second, wanted_end = uint64_t{page} + pages;
  if (wanted_end > end) return false;
  Erase(it);
  if (page > begin) Insert(static_cast<uint32_t>(begin), page - static_cast<uint32_t>(begin));
  if (wanted_end < end) Insert(static_cast<uint32_t>(wanted_end), static_cast<uint32_t>(end - wanted_end));
  return true;
}

void ExtentSpace::Free(uint32_t page, uint32_t pages) {
  auto next = by_page_.lower_bound(page);
  CHECK(next == by_page_.end() || uint64_t{page} + pages <= next->first);
  if (next != by_page_.end() && page + pages == next->first && next->first % file_pages_ != 0) {
    pages += next->second;
    const auto joined = next++;
    Erase(joined);
  }
  if (next != by_page_.begin()) {
    const auto before = std::prev(next);
    CHECK(before->first + before->second <= page);
    if (before->first + before->second == page && page % file_pages_ != 0) {
      page = before->first;
      pages += before->second;
      Erase(before);
    }
  }
  Insert(page, pages);
}

std::vector<std::pair<uint32_t, uint32_t>> ExtentSpace::FreeRanges() const {
  std::vector<std::pair<uint32_t, uint32_t>> out(by_page_.begin(), by_page_.end());
  for (uint32_t page = mark_; page < end_; page = FileEnd(page)) out.push_back({page, FileEnd(page) - page});
  return out;
}

}  // namespace baton
