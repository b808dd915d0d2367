#pragma once

#include <popart/op.hpp>

namespace popart {

class AliasModel {
 public:
  struct ViewGraph {
    long reshape(long tensor, const Shape &) { return tensor + 1; }
  } g;

  long getPoprithmsTensorId(const TensorId &) const { return 0; }
  void insertViewChange(long, const Tensor &, bool outplace) {
    log.push_back(outplace ? "view, closed" : "view, open");
  }

  std::vector<std::string> log;
};

inline void Op::growAliasModel(AliasModel &model) const {
  if (!inplacePriorityDefault().empty()) throw error("an op with variants in place models its aliases itself");
  model.log.push_back("no alias");
}

}  // namespace popart
