// "RemapCE" for PopART and Poplar: registration, the ops, and how they grow into copies on the tiles.
#include "remap_op.hpp"

#include <poplar/Graph.hpp>
#include <poplar/Program.hpp>
#include <poplar/Tensor.hpp>
#include <popart/alias/aliasmodel.hpp>
#include <popart/opmanager.hpp>
#include <popart/opserialiser.hpp>
#include <popart/popx/opx.hpp>
#include <popart/popx/opxmanager.hpp>
#include <popart/region.hpp>
#include <popart/shapeinference.hpp>
#include <popops/Rearrange.hpp>
#include <poputil/VarStructure.hpp>

#include "remap/tile_plan.hpp"

namespace remap {

const popart::OperatorIdentifier kRemap{"ai.graphcore", "RemapCE", 1, {1, 1}, 1};
const popart::OperatorIdentifier kRemapInplace{"ai.graphcore", "RemapCEInplace", 1, {1, 1}, 1};
const popart::OperatorIdentifier kRemapGrad{"ai.graphcore", "RemapCEGrad", 1, {1, 1}, 1};

void IdentityOp::setup() {
  const auto &info = inInfo(0);
  std::string problem = misfit(attributes_.forward, info.shape());
  if (problem.empty()) problem = misfit(attributes_.backward, info.shape());
  if (info.dataType() != popart::DataType::FLOAT16 && info.dataType() != popart::DataType::FLOAT) {
    problem = "the tensor is neither float16 nor float32";
  }
  if (!problem.empty()) throw popart::error("RemapCE \"" + attributes_.debug_name + "\": " + problem);
  outInfo(0) = info;
}

void IdentityOp::appendOutlineAttributes(popart::OpSerialiserBase &serialiser) const {
  Op::appendOutlineAttributes(serialiser);
  serialiser.appendAttribute("fwd_grain_size", attributes_.forward.grain_size);
  serialiser.appendAttribute("bwd_grain_size", attributes_.backward.grain_size);
  serialiser.appendAttribute("fwd_clone_layout", attributes_.forward.clone);
  serialiser.appendAttribute("bwd_clone_layout", attributes_.backward.clone);
  serialiser.appendAttribute("fwd_after_matmul", attributes_.forward.after_matmul);
  serialiser.appendAttribute("bwd_after_matmul", attributes_.backward.after_matmul);
}

void IdentityOp::appendAttributes(popart::OpSerialiserBase &serialiser) const {
  Op::appendAttributes(serialiser);
  serialiser.appendAttribute("debug_str", attributes_.debug_name);
}

std::vector<std::unique_ptr<popart::Op>> RemapOp::getGradOps() {
  std::vector<std::unique_ptr<popart::Op>> ops;
  ops.push_back(std::make_unique<RemapGradOp>(*this));
  return ops;
}

std::vector<std::tuple<popart::OperatorIdentifier, float>> RemapOp::inplacePriorityDefault() const {
  if (!layout().clone) return {};
  return {{kRemapInplace, 10.0f}};
}

std::unique_ptr<popart::Op> RemapOp::getInplaceVariant(const popart::OperatorIdentifier &id) const {
  if (id == kRemapInplace && layout().clone) return std::make_unique<RemapInplaceOp>(*this);
  return Op::getInplaceVariant(id);
}

void RemapOp::growAliasModel(popart::AliasModel &model) const {
  if (!layout().clone) {
    Op::growAliasModel(model);
    return;
  }
  // A view that changes nothing: the output aliases the input in place, and is not modified either way.
  const auto view = model.g.reshape(model.getPoprithmsTensorId(inId(0)), outShape(0));
  model.insertViewChange(view, *outTensor(0), isOutplace());
}

poprithms::memory::inplace::Proposal RemapOp::mapInplaceProposal(const popart::AliasModel &model,
                                                                 popart::OperatorIdentifier id) const {
  return layout().clone ? mapInplaceProposalGate0(model, id) : Op::mapInplaceProposal(model, id);
}

const std::vector<popart::GradInOutMapper> &RemapGradOp::gradInputInfo() const {
  static const std::vector<popart::GradInOutMapper> info{{0, 0, popart::GradOpInType::GradOut}};
  return info;
}

const std::map<int, int> &RemapGradOp::gradOutToNonGradIn() const {
  static const std::map<int, int> indices{{0, 0}};
  return indices;
}

namespace {

using Int = popart::Attributes::Int;

std::unique_ptr<popart::Op> create(const popart::OpCreatorInfo &info) {
  const auto integer = [&info](const char *name, Int otherwise) {
    return info.attributes.getAttribute<Int>(name, otherwise);
  };
  const auto name = info.attributes.getAttribute<popart::Attributes::String>("debug_str", std::string("remap"));
  std::string problem;
  const auto attributes =
      make_attributes(integer("fwd_grain_size", 8), integer("bwd_grain_size", 0), integer("fwd_clone_layout", 0),
                      integer("bwd_clone_layout", 0), integer("fwd_after_matmul", 0), integer("bwd_after_matmul", 0),
                      name.empty() ? "remap" : name, problem);
  if (!problem.empty()) throw popart::error("RemapCE \"" + name + "\": " + problem);
  return std::make_unique<RemapOp>(info.opid, attributes, info.settings);
}

// Puts `tensor`, in rows of `grain`, on the tiles of `graph`.
void map(poplar::Graph &graph, const poplar::Tensor &tensor, std::int64_t grain) {
  const auto tiles = graph.getTarget().getNumTiles();
  const TilePlan plan(static_cast<std::int64_t>(tensor.numElements()), grain, tiles);
  const auto flat = tensor.flatten();
  for (unsigned tile = 0; tile < tiles; ++tile) {
    const auto interval = plan.on_tile(tile);
    if (interval.size() == 0) continue;
    graph.setTileMapping(
        flat.slice(static_cast<std::size_t>(interval.begin), static_cast<std::size_t>(interval.end), 0), tile);
  }
}

// A matmul leaves blocks of neighbours of another dimension. The same tensor, the last dimension in groups.
poplar::Tensor regroup(poplar::Graph &graph, const poplar::Tensor &source, poplar::program::Sequence &program,
                       const poplar::DebugContext &context) {
  const auto columns = source.dim(source.rank() - 1);
  const auto rows = columns ? source.numElements() / columns : 0;
  const auto group = static_cast<std::size_t>(group_size(static_cast<std::int64_t>(columns)));
  if (rows == 0) return source;
  const auto matrix = source.reshape({rows, columns});
  const auto groupings = poputil::detectDimGroupings(graph, matrix);
  const bool last = !groupings.empty() && groupings.front().first == 1;
  if (last && (groupings.front().second >= group || groupings.front().second == 8)) return source;
  const auto better = popops::rearrange::regroupIfBeneficial(graph, matrix, group, program, context);
  if (graph.getTileMapping(better) != graph.getTileMapping(matrix)) return better.reshape(source.shape());
  const auto groups = graph.addVariable(source.elementType(), {columns / group, rows, group}, context);
  map(graph, groups, static_cast<std::int64_t>(group));
  program.add(poplar::program::Copy(matrix.reshape({rows, columns / group, group}).dimShuffle({1, 0, 2}), groups,
                                    false, context));
  return groups.dimShuffle({1, 0, 2}).reshape(source.shape());
}

// Copies the input into a variable that is laid out as the op says, for the forward and the gradient op.
class CopyOpx : public popart::popx::Opx {
 public:
  CopyOpx(popart::Op *op, popart::popx::Devicex *device) : Opx(op, device) {
    verifyOp<IdentityOp>(op, std::vector<popart::OperatorIdentifier>{kRemap, kRemapGrad});
  }

  void grow(poplar::program::Sequence &program) const final {
    const auto &op = getOp<IdentityOp>();
    const auto context =
        debugContext(op.attributes().debug_name + (op.opid == kRemapGrad ? "/remapCEGrad_out" : "/remapCE_out"));
    poplar::Tensor source = getInTensor(0);
    poplar::Tensor out;
    if (op.layout().clone) {
      out = graph().clone(source, context);
    } else {
      if (op.layout().after_matmul) source = regroup(graph(), source, program, context);
      out = graph().addVariable(source.elementType(), source.shape(), context);
      map(graph(), out, op.layout().grain_size);
    }
    program.add(poplar::program::Copy(source, out, false, context));
    setOutTensor(0, out);
  }

  // Only a copy that keeps the layout lets what comes after it choose the layout of what comes before.
  popart::popx::InputCreatorType getInputCreatorType(popart::InIndex) const final {
    const bool passes = op_p->opid == kRemap && getOp<IdentityOp>().layout().clone;
    return passes ? popart::popx::InputCreatorType::CanUnwind : popart::popx::InputCreatorType::Deadend;
  }
  poplar::Tensor unwindTensorLayout(poplar::Tensor tensor, popart::InIndex, popart::OutIndex) const final {
    return tensor;
  }
  popart::view::RegMap unwindRegion(popart::InIndex, popart::OutIndex) const final {
    return [](const popart::view::Region &region) { return popart::view::Regions(1, region); };
  }
};

class AliasOpx : public popart::popx::Opx {
 public:
  AliasOpx(popart::Op *op, popart::popx::Devicex *device) : Opx(op, device) {
    verifyOp<RemapInplaceOp>(op, kRemapInplace);
  }
  void grow(poplar::program::Sequence &) const final { setOutTensor(0, getInTensor(0)); }
};

const popart::OpDefinition::DataTypes kTypes{popart::DataType::FLOAT16, popart::DataType::FLOAT};

const popart::OpDefinition kDefinition({popart::OpDefinition::Inputs({{"data", kTypes}}),
                                        popart::OpDefinition::Outputs({{"out", kTypes}}),
                                        popart::OpDefinition::Attributes({{"fwd_grain_size", {"*"}},
                                                                          {"bwd_grain_size", {"*"}},
                                                                          {"fwd_clone_layout", {"*"}},
                                                                          {"bwd_clone_layout", {"*"}},
                                                                          {"fwd_after_matmul", {"*"}},
                                                                          {"bwd_after_matmul", {"*"}},
                                                                          {"debug_str", {"*"}}})});

void same_as_input(popart::ShapeInferenceContext &context) { context.outInfo(0) = context.inInfo(0); }

const popart::OpCreator<RemapOp> kCreator(popart::OpDefinitions({{kRemap, kDefinition}}), create, true);
const popart::RegisterShapeInferenceFunction kShape(kRemap, same_as_input);
const popart::RegisterShapeInferenceFunction kGradShape(kRemapGrad, same_as_input);
const popart::popx::OpxCreator<CopyOpx> kCopyOpx(std::vector<popart::OperatorIdentifier>{kRemap, kRemapGrad});
const popart::popx::OpxCreator<AliasOpx> kAliasOpx(kRemapInplace);

}  // namespace

}  // namespace remap
