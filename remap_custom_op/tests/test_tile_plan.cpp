// Properties of the tile plan, checked element by element over many sizes, and at the ends of the integers.
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "remap/attributes.hpp"
#include "remap/tile_plan.hpp"

using remap::Interval;
using remap::TilePlan;
using std::int64_t;

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Every element once, in order; whole rows; tiles within one row of each other; IPUs within one row of their share.
void check_plan(int64_t elements, int64_t grain, int64_t tiles, int64_t tiles_per_ipu) {
  const TilePlan plan(elements, grain, tiles);
  const int64_t rows = ceil_div(elements, grain);
  CHECK(plan.rows() == rows, elements, grain);
  std::vector<int> owners(static_cast<std::size_t>(elements), 0);
  std::vector<int64_t> rows_on_ipu(static_cast<std::size_t>(ceil_div(tiles, tiles_per_ipu)), 0);
  int64_t before = 0, most = 0, fewest = rows, largest = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const Interval interval = plan.on_tile(tile);
    CHECK(interval.begin == before && interval.end >= interval.begin && interval.end <= elements, "tile", tile,
          interval.begin, interval.end, "of", elements, grain, tiles);
    CHECK(interval.begin % grain == 0 || interval.size() == 0, "a row is split", elements, grain, tiles);
    for (int64_t i = interval.begin; i < interval.end && i < elements; ++i) ++owners[static_cast<std::size_t>(i)];
    const int64_t held = ceil_div(interval.size(), grain);
    most = std::max(most, held);
    fewest = std::min(fewest, held);
    largest = std::max(largest, interval.size());
    rows_on_ipu[static_cast<std::size_t>(tile / tiles_per_ipu)] += held;
    before = interval.end;
  }
  CHECK(before == elements, elements, grain, tiles);
  for (const int owner : owners) CHECK(owner == 1, elements, grain, tiles);
  CHECK(most - fewest <= 1 && most == ceil_div(rows, tiles), "balance", most, fewest, elements, grain, tiles);
  CHECK(largest <= plan.capacity() && plan.capacity() <= most * grain, plan.capacity(), elements, grain, tiles);
  for (std::size_t ipu = 0; ipu < rows_on_ipu.size(); ++ipu) {
    const int64_t first = static_cast<int64_t>(ipu) * tiles_per_ipu;
    const int64_t own = std::min(tiles_per_ipu, tiles - first);
    CHECK(std::abs(rows_on_ipu[ipu] * tiles - rows * own) < tiles, "IPU", ipu, rows_on_ipu[ipu], "of", rows, tiles);
  }
}

void sizes() {
  for (int64_t tiles = 1; tiles <= 12; ++tiles) {
    for (int64_t per_ipu = 1; per_ipu <= tiles + 1; ++per_ipu) {
      for (int64_t elements = 0; elements <= 50; ++elements) {
        for (const int64_t grain : {1, 2, 3, 8, 100}) check_plan(elements, grain, tiles, per_ipu);
      }
    }
  }
  std::mt19937_64 random(5);
  const auto up_to = [&random](int64_t n) { return static_cast<int64_t>(random() % static_cast<std::uint64_t>(n)); };
  for (int i = 0; i < 300; ++i) check_plan(up_to(20000), 1 + up_to(64), 1 + up_to(3000), 1 + up_to(1500));
}

// Counts that mapped wrongly, or not at all, where blocks of ceil(rows / tiles) are dealt out IPU by IPU.
void uneven_counts() {
  check_plan(28800, 1, 4 * 1472, 1472);
  for (int64_t tile = 0; tile < 4 * 1472; ++tile) {
    const int64_t size = TilePlan(28800, 1, 4 * 1472).on_tile(tile).size();
    CHECK(size == 4 || size == 5, tile, size);
  }
  check_plan(10, 1, 8, 4);
  check_plan(28801, 1, 2944, 1472);
  check_plan(28800 * 8, 8, 1440, 1472);  // some tiles are set aside: fewer than an IPU has
  check_plan(1473, 1, 1472, 1472);
  const TilePlan plan(1473, 1, 1472);
  for (int64_t tile = 0; tile < 1472; ++tile) CHECK(plan.on_tile(tile).size() >= 1, "idle tile", tile);
  check_plan(6 * 50 * 768, 8, 1472, 1472);
  check_plan(6 * 197 * 512, 8, 1472, 1472);
}

void limits() {
  const int64_t largest = std::numeric_limits<int64_t>::max();
  const TilePlan one(largest / 4, largest, 5);
  CHECK(one.rows() == 1 && one.capacity() == largest / 4, one.capacity());
  const TilePlan many(largest / 4, 1, (int64_t{1} << 31) - 1);
  const int64_t last = many.tiles() - 1;
  CHECK(many.on_tile(last).end == largest / 4 && many.on_tile(0).begin == 0, many.on_tile(last).end);
  CHECK(many.capacity() - many.on_tile(last / 2).size() <= 1, many.capacity());
  CHECK(many.on_tile(last / 2).end == many.on_tile(last / 2 + 1).begin, "");
  CHECK_THROWS(TilePlan(-1, 1, 1), std::invalid_argument);
  for (const int64_t none : {int64_t{0}, int64_t{-8}, -largest}) {
    CHECK_THROWS(TilePlan(8, none, 1), std::invalid_argument);
    CHECK_THROWS(TilePlan(8, 1, none), std::invalid_argument);
  }
  CHECK_THROWS(TilePlan(8, 1, int64_t{1} << 31), std::invalid_argument);
  CHECK_THROWS(TilePlan(8, 1, 4).on_tile(4), std::out_of_range);
  CHECK_THROWS(TilePlan(8, 1, 4).on_tile(-1), std::out_of_range);
}

void attributes() {
  const auto problem = [](int64_t fg, int64_t bg, int64_t fc, int64_t bc, int64_t fm, int64_t bm) {
    std::string text;
    remap::make_attributes(fg, bg, fc, bc, fm, bm, "a", text);
    return text;
  };
  CHECK(problem(8, 0, 0, 0, 0, 0).empty() && problem(1, 3, 1, 0, 0, 1).empty(), "");
  CHECK(!problem(0, 8, 0, 0, 0, 0).empty() && !problem(-8, 8, 0, 0, 0, 0).empty(), "");
  CHECK(!problem(8, -1, 0, 0, 0, 0).empty(), "");
  CHECK(!problem(8, 0, 2, 0, 0, 0).empty() && !problem(8, 0, 0, -1, 0, 0).empty(), "");
  CHECK(!problem(8, 0, 0, 0, 2, 0).empty() && !problem(8, 0, 0, 0, 0, 2).empty(), "");
  CHECK(!problem(8, 0, 1, 0, 1, 0).empty() && !problem(8, 0, 0, 1, 0, 1).empty(), "");
  std::string text;
  CHECK(remap::make_attributes(16, 0, 0, 0, 0, 0, "a", text).backward.grain_size == 16, "");
  CHECK(remap::make_attributes(16, 4, 0, 0, 0, 0, "a", text).backward.grain_size == 4, "");
  CHECK(remap::group_size(64) == 16 && remap::group_size(24) == 8 && remap::group_size(12) == 4, "");
  CHECK(remap::group_size(6) == 0 && remap::misfit({8, false, false}, {}).empty(), "");
  CHECK(!remap::misfit({8, false, true}, {16}).empty() && !remap::misfit({8, false, true}, {4, 6}).empty(), "");
  CHECK(remap::misfit({8, false, true}, {3, 4}).empty(), "");
}

}  // namespace

int main() {
  sizes();
  uneven_counts();
  limits();
  attributes();
  return failures();
}
