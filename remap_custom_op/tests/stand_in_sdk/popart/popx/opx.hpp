#pragma once

#include <poplar/Program.hpp>
#include <popart/op.hpp>

namespace popart {
namespace popx {

enum class InputCreatorType { CanCreate, CanUnwind, Deadend };

// One graph and one tensor, where PopART has a device and its lowering.
class Devicex {
 public:
  explicit Devicex(unsigned tiles) : graph(tiles) {}
  poplar::Graph graph;
  poplar::Tensor in;
  poplar::Tensor out;
};

class Opx {
 public:
  Opx(Op *op, Devicex *device) : op_p(op), dv_p(device) {}
  virtual ~Opx() = default;

  virtual void grow(poplar::program::Sequence &) const = 0;
  virtual InputCreatorType getInputCreatorType(InIndex) const { return InputCreatorType::Deadend; }
  virtual poplar::Tensor unwindTensorLayout(poplar::Tensor, InIndex, OutIndex) const { throw error("no unwinding"); }
  virtual view::RegMap unwindRegion(InIndex, OutIndex) const { throw error("no unwinding"); }

  poplar::Graph &graph() const { return dv_p->graph; }
  const poplar::Tensor &getInTensor(InIndex) const { return dv_p->in; }
  void setOutTensor(OutIndex, const poplar::Tensor &tensor) const { dv_p->out = tensor; }
  poplar::DebugContext debugContext(const std::string &name = "") const { return op_p->settings.name + "/" + name; }

  template <class OP>
  OP &getOp() const {
    return dynamic_cast<OP &>(*op_p);
  }
  template <class OP>
  void verifyOp(Op *op, const OperatorIdentifier &id) {
    verifyOp<OP>(op, std::vector<OperatorIdentifier>{id});
  }
  template <class OP>
  void verifyOp(Op *op, std::vector<OperatorIdentifier> ids) {
    for (const auto &id : ids) {
      if (op->opid == id) return;
    }
    throw error("not an op of this Opx");
  }

  Op *op_p;

 protected:
  Devicex *dv_p;
};

}  // namespace popx
}  // namespace popart
