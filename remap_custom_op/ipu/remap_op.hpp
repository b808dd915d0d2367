// The op "RemapCE" in PopART's graph: the identity, in another tile layout.
#pragma once

#include <popart/op.hpp>

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "remap/attributes.hpp"

namespace remap {

extern const popart::OperatorIdentifier kRemap;
extern const popart::OperatorIdentifier kRemapInplace;
extern const popart::OperatorIdentifier kRemapGrad;

// One tensor in, the same one out, for the forward and the gradient op.
class IdentityOp : public popart::Op {
 public:
  IdentityOp(const popart::OperatorIdentifier &id, const Attributes &attributes, const Settings &settings)
      : Op(id, settings), attributes_(attributes) {}

  // Checks dtype and shape for both directions, so that a mistake shows before the graph is differentiated.
  void setup() final;

  // How this op lays its output out.
  virtual const Layout &layout() const = 0;
  const Attributes &attributes() const { return attributes_; }

  // What outlining compares and, through Op::appendAttributes, the hash of the executable cache covers.
  void appendOutlineAttributes(popart::OpSerialiserBase &serialiser) const final;
  // The name goes into the hash only: two blocks that differ in names alone shall share their code.
  void appendAttributes(popart::OpSerialiserBase &serialiser) const final;

  float getSubgraphValue() const final { return getLowSubgraphValue(); }
  bool canBeReplacedByIdentity() const final { return false; }  // its layout is all it is for
  bool canShard() const final { return false; }
  popart::ReplicatedTensorShardingIndices getReplicatedTensorShardingIndices() const final { return {{{0}, {0}}}; }

 private:
  Attributes attributes_;
};

class RemapOp : public IdentityOp {
 public:
  using IdentityOp::IdentityOp;

  const Layout &layout() const final { return attributes().forward; }
  std::unique_ptr<popart::Op> clone() const override { return std::make_unique<RemapOp>(*this); }
  std::vector<std::unique_ptr<popart::Op>> getGradOps() final;

  // With fwd_clone_layout only the gradient moves, so forward may be the very input.
  std::vector<std::tuple<popart::OperatorIdentifier, float>> inplacePriorityDefault() const override;
  std::unique_ptr<popart::Op> getInplaceVariant(const popart::OperatorIdentifier &id) const final;
  void growAliasModel(popart::AliasModel &model) const final;
  poprithms::memory::inplace::Proposal mapInplaceProposal(const popart::AliasModel &model,
                                                          popart::OperatorIdentifier id) const final;
};

// Returns its input itself. It aliases that and modifies nothing.
class RemapInplaceOp : public RemapOp {
 public:
  explicit RemapInplaceOp(const RemapOp &op) : RemapOp(kRemapInplace, op.attributes(), op.settings) {}

  std::unique_ptr<popart::Op> clone() const final { return std::make_unique<RemapInplaceOp>(*this); }
  std::vector<std::tuple<popart::OperatorIdentifier, float>> inplacePriorityDefault() const final { return {}; }
  popart::view::Regions aliases(popart::InIndex in, popart::OutIndex) const final { return uses(in); }
};

class RemapGradOp : public IdentityOp {
 public:
  explicit RemapGradOp(const RemapOp &op) : IdentityOp(kRemapGrad, op.attributes(), op.settings) {}

  const Layout &layout() const final { return attributes().backward; }
  std::unique_ptr<popart::Op> clone() const final { return std::make_unique<RemapGradOp>(*this); }
  const std::vector<popart::GradInOutMapper> &gradInputInfo() const final;
  const std::map<int, int> &gradOutToNonGradIn() const final;
};

}  // namespace remap
