// The PopART binding, grown and run on the stand-ins for the SDK in stand_in_sdk/.
#include <popart/alias/aliasmodel.hpp>
#include <popart/opmanager.hpp>
#include <popart/opserialiser.hpp>
#include <popart/popx/opxmanager.hpp>
#include <popart/region.hpp>
#include <popart/shapeinference.hpp>
#include <popops/Rearrange.hpp>
#include <poputil/VarStructure.hpp>

#include "check.hpp"
#include "remap/tile_plan.hpp"
#include "remap_op.hpp"

namespace {

using Values = std::map<std::string, std::variant<std::int64_t, std::string>>;

constexpr unsigned kTiles = 7;

std::unique_ptr<popart::Op> make(const Values &values, const popart::Shape &shape = {2, 3, 16},
                                 popart::DataType type = popart::DataType::FLOAT16) {
  static popart::Graph graph;
  popart::Attributes attributes;
  attributes.values = values;
  const popart::Op::Settings settings(graph, "scope");
  auto op = popart::OpManager::registered().at(remap::kRemap).second({remap::kRemap, settings, attributes});
  op->in = {"x", {type, shape}};
  op->setup();
  return op;
}

std::unique_ptr<popart::Op> gradient(popart::Op &op) {
  auto ops = op.getGradOps();
  CHECK(ops.size() == 1, ops.size());
  ops[0]->in = op.out;
  ops[0]->setup();
  return std::move(ops[0]);
}

std::unique_ptr<popart::popx::Opx> opx(popart::Op &op, popart::popx::Devicex &device) {
  return popart::popx::OpxManager::registered().at(op.opid)(&op, &device);
}

// Grow `op` behind an input that lies on one tile, run it, and check that its output is its input, all of it mapped.
popart::popx::Devicex run(popart::Op &op, std::size_t copies) {
  popart::popx::Devicex device(kTiles);
  const std::vector<std::size_t> shape(op.in.info.shape().begin(), op.in.info.shape().end());
  device.in = device.graph.addVariable(poplar::Type::HALF, shape, "in");
  device.graph.setTileMapping(device.in, 3);
  for (std::size_t i = 0; i < device.in.numElements(); ++i) device.graph.values[0][i] = static_cast<double>(i);
  poplar::program::Sequence program;
  opx(op, device)->grow(program);
  program.run(device.graph);
  CHECK(program.copies.size() == copies, op.opid.type, program.copies.size(), "copies, not", copies);
  CHECK(device.out.shape() == shape && device.out.elementType() == poplar::Type::HALF, op.opid.type);
  for (std::size_t i = 0; i < device.in.numElements(); ++i) {
    CHECK(device.graph.value(device.out.elements()[i]) == static_cast<double>(i), op.opid.type, i);
  }
  return device;
}

void check_mapping(popart::popx::Devicex &device, const poplar::Tensor &tensor, std::int64_t grain) {
  const remap::TilePlan plan(static_cast<std::int64_t>(tensor.numElements()), grain, kTiles);
  for (unsigned tile = 0; tile < kTiles; ++tile) {
    const auto interval = plan.on_tile(tile);
    for (auto i = interval.begin; i < interval.end; ++i) {
      CHECK(device.graph.tile(tensor.elements()[static_cast<std::size_t>(i)]) == tile, "element", i, "grain", grain);
    }
  }
}

void layouts() {
  auto op = make({{"fwd_grain_size", std::int64_t{8}}, {"bwd_grain_size", std::int64_t{3}}, {"debug_str", "qkv"}});
  auto device = run(*op, 1);
  check_mapping(device, device.out, 8);
  CHECK(device.graph.names.back() == "scope/qkv/remapCE_out", device.graph.names.back());
  auto grad = gradient(*op);
  device = run(*grad, 1);
  check_mapping(device, device.out, 3);
  CHECK(device.graph.names.back() == "scope/qkv/remapCEGrad_out", device.graph.names.back());

  op = make({});  // 8 forward and backward
  grad = gradient(*op);
  device = run(*grad, 1);
  check_mapping(device, device.out, 8);
  CHECK(device.graph.names.back() == "scope/remap/remapCEGrad_out", device.graph.names.back());
  for (const auto &shape : std::vector<popart::Shape>{{}, {0, 16}, {5}, {7, 11, 13}}) {
    op = make({}, shape);
    device = run(*op, 1);
    check_mapping(device, device.out, 8);
  }

  op = make({{"fwd_clone_layout", std::int64_t{1}}, {"bwd_grain_size", std::int64_t{4}}});
  device = run(*op, 1);
  for (const auto &element : device.out.elements()) CHECK(device.graph.tile(element) == 3, "not cloned");
  CHECK(device.out.elements()[0].variable != device.in.elements()[0].variable, "a copy");
  grad = gradient(*op);
  device = run(*grad, 1);
  check_mapping(device, device.out, 4);
}

void after_matmul() {
  auto op = make({{"fwd_after_matmul", std::int64_t{1}}, {"fwd_grain_size", std::int64_t{4}}}, {2, 3, 24});
  poputil::stand_in_groupings = {{0, 3}};
  auto device = run(*op, 2);
  check_mapping(device, device.out, 4);
  CHECK(device.graph.tiles[1].size() == 144, "the groups");
  const remap::TilePlan groups(144, 8, kTiles);  // [24 / 8, 6, 8] in rows of 8
  for (std::int64_t tile = 0; tile < kTiles; ++tile) {
    const auto interval = groups.on_tile(tile);
    for (auto i = interval.begin; i < interval.end; ++i) {
      CHECK(device.graph.tiles[1][static_cast<std::size_t>(i)] == tile, "group element", i);
      // Groups come before rows: element (group, row, i) is column 8 group + i of that row.
      CHECK(device.graph.values[1][static_cast<std::size_t>(i)] == i / 8 % 6 * 24 + i / 48 * 8 + i % 8, "order", i);
    }
  }
  for (const auto &grouped : {std::pair{1u, 8u}, std::pair{1u, 16u}, std::pair{1u, 12u}}) {
    poputil::stand_in_groupings = {grouped};
    run(*op, 1);
  }
  poputil::stand_in_groupings = {{1, 4}};
  run(*op, 2);
  auto narrow = make({{"fwd_after_matmul", std::int64_t{1}}}, {2, 3, 12});
  run(*narrow, 1);
  poputil::stand_in_groupings = {};
  run(*narrow, 2);
  popops::rearrange::stand_in_beneficial = true;
  device = run(*op, 2);
  CHECK(device.graph.names[1] == "regrouped", device.graph.names[1]);
  check_mapping(device, device.out, 4);
  popops::rearrange::stand_in_beneficial = false;
  auto grad = gradient(*make({{"bwd_after_matmul", std::int64_t{1}}}));
  run(*grad, 2);
  auto empty = make({{"fwd_after_matmul", std::int64_t{1}}}, {0, 16});
  run(*empty, 1);
}

void mistakes() {
  const auto one = std::int64_t{1};
  CHECK_THROWS(make({{"fwd_grain_size", std::int64_t{0}}}), popart::error);
  CHECK_THROWS(make({{"bwd_grain_size", std::int64_t{-1}}}), popart::error);
  CHECK_THROWS(make({{"bwd_clone_layout", std::int64_t{2}}}), popart::error);
  CHECK_THROWS(make({{"fwd_clone_layout", one}, {"fwd_after_matmul", one}}), popart::error);
  CHECK_THROWS(make({}, {4}, popart::DataType::INT32), popart::error);
  CHECK_THROWS(make({{"fwd_after_matmul", one}}, {16}), popart::error);
  CHECK_THROWS(make({{"bwd_after_matmul", one}}, {4, 6}), popart::error);
  make({}, {4}, popart::DataType::FLOAT);
}

std::string outline(const popart::Op &op) {
  popart::OpSerialiserBase serialiser;
  op.appendOutlineAttributes(serialiser);
  return serialiser.text;
}

std::string hash(const popart::Op &op) {
  popart::OpSerialiserBase serialiser;
  op.appendAttributes(serialiser);
  return serialiser.text;
}

// Ops that lay out differently never look equal to the outliner or the executable cache; names alone only to the cache.
void serialisation() {
  const Values usual{{"fwd_grain_size", std::int64_t{8}}, {"bwd_grain_size", std::int64_t{16}}};
  std::vector<Values> others(6, usual);
  others[0]["fwd_grain_size"] = std::int64_t{16};
  others[1]["bwd_grain_size"] = std::int64_t{8};
  const char *const flags[] = {"fwd_clone_layout", "bwd_clone_layout", "fwd_after_matmul", "bwd_after_matmul"};
  for (std::size_t i = 0; i < 4; ++i) others[2 + i][flags[i]] = std::int64_t{1};
  std::set<std::string> outlines{outline(*make(usual))}, hashes{hash(*make(usual))}, gradients;
  gradients.insert(outline(*gradient(*make(usual))));
  for (const auto &values : others) {
    auto op = make(values);
    outlines.insert(outline(*op));
    hashes.insert(hash(*op));
    gradients.insert(outline(*gradient(*op)));
  }
  CHECK(outlines.size() == 7 && hashes.size() == 7 && gradients.size() == 7, outlines.size(), hashes.size());
  auto named = usual;
  named["debug_str"] = "other";
  CHECK(outline(*make(named)) == outline(*make(usual)) && hash(*make(named)) != hash(*make(usual)), "names");
  CHECK(outline(*make(usual)->clone()) == outline(*make(usual)), "a clone");
}

void graph_rules() {
  const popart::Op::Settings none = make({})->settings;
  auto op = make({}), kept = make({{"fwd_clone_layout", std::int64_t{1}}});
  auto grad = gradient(*op);
  CHECK(grad->opid == remap::kRemapGrad && grad->gradInputInfo().size() == 1, grad->opid.type);
  const auto &from = grad->gradInputInfo().front();
  CHECK(from.iGrad == 0 && from.iNonGrad == 0 && from.type == popart::GradOpInType::GradOut, "");
  CHECK((grad->gradOutToNonGradIn() == std::map<int, int>{{0, 0}}), "");
  CHECK(!op->canBeReplacedByIdentity() && !op->canShard() && op->clone()->opid == remap::kRemap, "");
  CHECK(grad->clone()->opid == remap::kRemapGrad, "");

  popart::AliasModel model;
  CHECK(op->inplacePriorityDefault().empty() && kept->inplacePriorityDefault().size() == 1, "");
  CHECK_THROWS(op->getInplaceVariant(remap::kRemapInplace), popart::error);
  CHECK_THROWS(op->mapInplaceProposal(model, remap::kRemapInplace), popart::error);
  CHECK(kept->mapInplaceProposal(model, remap::kRemapInplace).gate == popart::Op::gate, "");
  auto inplace = kept->getInplaceVariant(remap::kRemapInplace);
  inplace->in = kept->in;
  inplace->setup();
  CHECK(!inplace->isOutplace() && kept->isOutplace() && inplace->modifies(0).front().isEmpty(), "aliases only");
  CHECK(inplace->inplacePriorityDefault().empty() && inplace->clone()->opid == remap::kRemapInplace, "");
  for (const auto *each : {op.get(), kept.get(), inplace.get()}) each->growAliasModel(model);
  CHECK((model.log == std::vector<std::string>{"no alias", "view, closed", "view, open"}), "");
  const auto device = run(*inplace, 0);
  CHECK(device.out.elements()[0].variable == device.in.elements()[0].variable, "the input itself");

  popart::popx::Devicex any(kTiles);
  using popart::popx::InputCreatorType;
  CHECK(opx(*op, any)->getInputCreatorType(0) == InputCreatorType::Deadend, "");
  CHECK(opx(*kept, any)->getInputCreatorType(0) == InputCreatorType::CanUnwind, "");
  CHECK(opx(*grad, any)->getInputCreatorType(0) == InputCreatorType::Deadend, "");
  const auto region = opx(*kept, any)->unwindRegion(0, 0)(popart::view::Region(false));
  CHECK(region.size() == 1 && !region[0].isEmpty(), "");
  const auto names = popart::OpManager::registered().at(remap::kRemap).first.attributes;
  CHECK(names.size() == 7 && names.count("debug_str") == 1, names.size());
  for (const auto &id : {remap::kRemap, remap::kRemapGrad}) {
    popart::ShapeInferenceContext context{{popart::DataType::FLOAT, {2, 3}}, {}};
    popart::RegisterShapeInferenceFunction::registered().at(id)(context);
    CHECK(context.out.shape() == popart::Shape({2, 3}) && context.out.dataType() == popart::DataType::FLOAT, id.type);
  }
}

}  // namespace

int main() {
  layouts();
  after_matmul();
  mistakes();
  serialisation();
  graph_rules();
  return failures();
}
