// The attributes of "RemapCE" and what they allow, the same on an IPU and on a host.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace remap {

// How one direction, forward or backward, is laid out.
struct Layout {
  std::int64_t grain_size;  // elements that stay together on a tile
  bool clone;               // keep the layout that the tensor has
  bool after_matmul;        // the tensor comes from a matmul: first regroup its last dimension
};

struct Attributes {
  Layout forward;
  Layout backward;
  std::string debug_name;
};

// A matmul's output is regrouped in 16, 8 or 4 neighbours of its last dimension, the most that divide it; 0 if none do.
inline std::int64_t group_size(std::int64_t last_dimension) {
  for (const std::int64_t group : {16, 8, 4}) {
    if (last_dimension % group == 0) return group;
  }
  return 0;
}

// Attributes from the integers that a program gives; backward_grain 0 stands for the forward one. Why they are no
// attributes is written to `problem`, which stays empty if they are.
inline Attributes make_attributes(std::int64_t forward_grain, std::int64_t backward_grain, std::int64_t forward_clone,
                                  std::int64_t backward_clone, std::int64_t forward_after_matmul,
                                  std::int64_t backward_after_matmul, const std::string &debug_name,
                                  std::string &problem) {
  if (forward_grain < 1) problem = "fwd_grain_size is " + std::to_string(forward_grain) + ": give at least 1";
  if (backward_grain < 0) problem = "bwd_grain_size is " + std::to_string(backward_grain) + ": give at least 0";
  for (const std::int64_t flag : {forward_clone, backward_clone, forward_after_matmul, backward_after_matmul}) {
    if (flag != 0 && flag != 1) problem = "clone_layout and after_matmul are 0 or 1, not " + std::to_string(flag);
  }
  if ((forward_clone && forward_after_matmul) || (backward_clone && backward_after_matmul)) {
    problem = "clone_layout keeps the layout that after_matmul would change: set one of them";
  }
  return {{forward_grain, forward_clone != 0, forward_after_matmul != 0},
          {backward_grain ? backward_grain : forward_grain, backward_clone != 0, backward_after_matmul != 0},
          debug_name};
}

// Why `layout` does not fit a tensor of `shape`; empty if it does.
inline std::string misfit(const Layout &layout, const std::vector<std::int64_t> &shape) {
  if (!layout.after_matmul) return "";
  if (shape.size() < 2) {
    return "after_matmul needs 2 dimensions or more, not " + std::to_string(shape.size());
  }
  if (group_size(shape.back()) == 0) {
    return "after_matmul needs a last dimension that 4 divides, not " + std::to_string(shape.back());
  }
  return "";
}

}  // namespace remap
