#pragma once

#include <popart/op.hpp>

namespace popart {

struct ShapeInferenceContext {
  const TensorInfo &inInfo(int) const { return in; }
  TensorInfo &outInfo(int) { return out; }
  TensorInfo in, out;
};

class RegisterShapeInferenceFunction {
 public:
  using Function = std::function<void(ShapeInferenceContext &)>;
  RegisterShapeInferenceFunction(const OperatorIdentifier &id, Function function) { registered()[id] = function; }
  static std::map<OperatorIdentifier, Function> &registered() {
    static std::map<OperatorIdentifier, Function> functions;
    return functions;
  }
};

}  // namespace popart
