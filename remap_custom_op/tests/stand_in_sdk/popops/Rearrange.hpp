#pragma once

#include <poplar/Program.hpp>

namespace popops {
namespace rearrange {

inline bool stand_in_beneficial = false;  // whether the next call regroups

inline poplar::Tensor regroupIfBeneficial(poplar::Graph &graph, const poplar::Tensor &in, std::size_t,
                                          poplar::program::Sequence &program, const poplar::DebugContext & = {}) {
  if (!stand_in_beneficial) return in;
  const auto out = graph.addVariable(in.elementType(), in.shape(), "regrouped");
  for (std::size_t i = 0; i < out.numElements(); ++i) {
    graph.tile(out.elements()[i]) = static_cast<unsigned>(i % graph.getTarget().getNumTiles());
  }
  program.add(poplar::program::Copy(in, out, false));
  return out;
}

}  // namespace rearrange
}  // namespace popops
