// Which pages of the extent files are free: below a high-water mark ranges by place and by length, of which the shortest that
// fits is taken (the lowest among equals) and neighbours join; above it everything, so that files grow one after the
// other. No range crosses an extent file's end.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace baton {

/// Thread: one at a time.
class ExtentSpace {
 public:
  /// All of `pages` free, in files of `file_pages`.
  ExtentSpace(uint32_t pages, uint32_t file_pages);

  /// The first page of a range that is now taken; nothing when no free range is long enough.
  std::optional<uint32_t> Allocate(uint32_t pages);
  /// Takes this very range; false when it is not wholly free or not inside one file.
  [[nodiscard]] bool Reserve(uint32_t page, uint32_t pages);
  /// Gives a taken range back.
  void Free(uint32_t page, uint32_t pages);

  uint32_t free_pages() const { return free_pages_ + (end_ - mark_); }
  /// (first page, pages), ascending.
  std::vector<std::pair<uint32_t, uint32_t>> FreeRanges() const;

 private:
  void Insert(uint32_t page, uint32_t pages);
  void Erase(std::map<uint32_t, uint32_t>::iterator it);

  uint32_t FileEnd(uint32_t page) const;  // of the file that holds this page
  void RaiseMark(uint32_t to);            // what is passed over is free below it

  const uint32_t end_, file_pages_;
  uint32_t mark_ = 0;
  std::map<uint32_t, uint32_t> by_page_;                // first page → pages
  std::set<std::pair<uint32_t, uint32_t>> by_length_;   // (pages, first page)
  uint32_t free_pages_ = 0;                             // below the mark
};

}  // namespace baton
