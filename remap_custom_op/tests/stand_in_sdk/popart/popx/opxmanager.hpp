#pragma once

#include <popart/popx/opx.hpp>

namespace popart {
namespace popx {

struct OpxManager {
  using Factory = std::function<std::unique_ptr<Opx>(Op *, Devicex *)>;
  static std::map<OperatorIdentifier, Factory> &registered() {
    static std::map<OperatorIdentifier, Factory> opxs;
    return opxs;
  }
};

template <class OPX>
class OpxCreator {
 public:
  explicit OpxCreator(const OperatorIdentifier &id) : OpxCreator(std::vector<OperatorIdentifier>{id}) {}
  explicit OpxCreator(const std::vector<OperatorIdentifier> &ids) {
    for (const auto &id : ids) {
      OpxManager::registered()[id] = [](Op *op, Devicex *device) { return std::make_unique<OPX>(op, device); };
    }
  }
};

}  // namespace popx
}  // namespace popart
