// How a tensor is laid out over the tiles of one or several IPUs. Plain arithmetic: nothing of Poplar is needed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace remap {

// Elements `begin` up to, not including, `end` of the flattened tensor.
struct Interval {
  std::int64_t begin;
  std::int64_t end;

  std::int64_t size() const { return end - begin; }
};

// Spreads a flattened tensor of `elements` over `tiles` in rows of `grain` consecutive elements (the last row may be
// shorter). Tile t of T holds rows floor(t R / T) up to floor((t + 1) R / T) of R: consecutive tiles hold consecutive
// rows, every row has one tile, and no two tiles differ by more than one row. Tiles of several IPUs are numbered
// through, so an IPU's rows are its share of the tiles too, also where the last IPU lends fewer of them.
class TilePlan {
 public:
  // Throws std::invalid_argument unless elements >= 0, grain >= 1 and 1 <= tiles < 2^31.
  TilePlan(std::int64_t elements, std::int64_t grain, std::int64_t tiles) : elements_(elements), tiles_(tiles) {
    require(elements >= 0, "elements", elements);
    require(grain >= 1, "grain size", grain);
    require(tiles >= 1 && tiles < (std::int64_t{1} << 31), "number of tiles", tiles);
    grain_ = std::min(grain, std::max<std::int64_t>(elements, 1));  // keeps row * grain far from overflow
    rows_ = elements / grain_ + (elements % grain_ != 0);
  }

  std::int64_t rows() const { return rows_; }
  std::int64_t tiles() const { return tiles_; }

  // The elements on `tile`, empty where there are fewer rows than tiles; std::out_of_range for no tile of the plan.
  Interval on_tile(std::int64_t tile) const {
    if (tile < 0 || tile >= tiles_) {
      throw std::out_of_range("remap: tile " + std::to_string(tile) + " of " + std::to_string(tiles_));
    }
    return {first_element(tile), first_element(tile + 1)};
  }

  // The most elements that a tile holds.
  std::int64_t capacity() const { return std::min((rows_ / tiles_ + (rows_ % tiles_ != 0)) * grain_, elements_); }

 private:
  static void require(bool holds, const char *name, std::int64_t value) {
    if (!holds) throw std::invalid_argument(std::string("remap: ") + name + " is " + std::to_string(value));
  }

  std::int64_t first_element(std::int64_t tile) const {
    // floor(tile * rows / tiles) without the product of both, which could overflow.
    const std::int64_t row = rows_ / tiles_ * tile + rows_ % tiles_ * tile / tiles_;
    return std::min(row * grain_, elements_);
  }

  std::int64_t elements_, grain_, tiles_, rows_;
};

}  // namespace remap
