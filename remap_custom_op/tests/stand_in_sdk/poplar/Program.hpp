#pragma once

#include <poplar/Graph.hpp>

namespace poplar {
namespace program {

struct Copy {
  Copy(Tensor from, Tensor to, bool, const DebugContext & = {}) : source(std::move(from)), target(std::move(to)) {}
  Tensor source, target;
};

class Sequence {
 public:
  void add(const Copy &copy) { copies.push_back(copy); }

  void run(Graph &graph) const {
    for (const auto &copy : copies) {
      if (copy.source.shape() != copy.target.shape()) throw poplar_error("copy between different shapes");
      for (std::size_t i = 0; i < copy.source.numElements(); ++i) {
        const auto &from = copy.source.elements()[i], &to = copy.target.elements()[i];
        if (graph.tile(to) == Graph::kUnmapped) throw poplar_error("copy to an unmapped element");
        graph.value(to) = graph.value(from);
      }
    }
  }

  std::vector<Copy> copies;
};

}  // namespace program
}  // namespace poplar
