#pragma once

#include <popart/op.hpp>

namespace popart {
namespace view {

class Region {
 public:
  explicit Region(bool is_empty) : empty(is_empty) {}
  bool isEmpty() const { return empty; }

 private:
  bool empty;
};

}  // namespace view

inline view::Regions Op::modifies(InIndex) const { return {view::Region(true)}; }
inline view::Regions Op::uses(InIndex) const { return {view::Region(false)}; }
inline view::Regions Op::aliases(InIndex, OutIndex) const { return {view::Region(true)}; }
inline bool Op::isOutplace() const { return aliases(0, 0).front().isEmpty(); }

}  // namespace popart
