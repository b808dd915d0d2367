// Stand-in for PopART, written for these tests: the declarations that the binding uses, and one tensor in, one out.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <poprithms/memory/inplace/proposal.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace popart {

struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using InIndex = int;
using OutIndex = int;
using TensorId = std::string;
using Shape = std::vector<std::int64_t>;
using ReplicatedTensorShardingIndices = std::set<std::pair<std::set<InIndex>, std::set<OutIndex>>>;

enum class DataType { FLOAT16, FLOAT, INT32 };

struct NumInputs {
  int min, max;
};

struct OperatorIdentifier {
  OperatorIdentifier(std::string d, std::string t, unsigned v, NumInputs in, int out)
      : domain(std::move(d)), type(std::move(t)), version(v), numInputs(in), numOutputs(out) {}
  std::string domain, type;
  unsigned version;
  NumInputs numInputs;
  int numOutputs;
  bool operator==(const OperatorIdentifier &other) const { return key() == other.key(); }
  bool operator<(const OperatorIdentifier &other) const { return key() < other.key(); }
  std::tuple<std::string, std::string, unsigned> key() const { return {domain, type, version}; }
};

class TensorInfo {
 public:
  TensorInfo() = default;
  TensorInfo(DataType type, Shape shape) : type_(type), shape_(std::move(shape)) {}
  DataType dataType() const { return type_; }
  const Shape &shape() const { return shape_; }

 private:
  DataType type_ = DataType::INT32;
  Shape shape_;
};

struct Tensor {
  TensorId id;
  TensorInfo info;
};

namespace view {
class Region;
using Regions = std::vector<Region>;
using RegMap = std::function<Regions(const Region &)>;
}  // namespace view

class AliasModel;
class OpSerialiserBase;
class Graph {};

enum class GradOpInType { In, Out, GradOut };

struct GradInOutMapper {
  GradInOutMapper(InIndex grad, int non_grad, GradOpInType t) : iGrad(grad), iNonGrad(non_grad), type(t) {}
  InIndex iGrad;
  int iNonGrad;
  GradOpInType type;
};

class Op {
 public:
  struct Settings {
    Settings(Graph &g, std::string n) : graph(g), name(std::move(n)) {}
    std::reference_wrapper<Graph> graph;
    std::string name;
  };

  Op(const OperatorIdentifier &identifier, const Settings &s) : opid(identifier), settings(s) {}
  Op(const Op &) = default;
  Op &operator=(const Op &) = delete;
  virtual ~Op() = default;

  virtual std::unique_ptr<Op> clone() const = 0;
  virtual float getSubgraphValue() const = 0;
  virtual void setup() { throw error("no setup"); }
  virtual bool canBeReplacedByIdentity() const { return false; }
  virtual bool canShard() const { return false; }
  virtual ReplicatedTensorShardingIndices getReplicatedTensorShardingIndices() const { return {}; }
  virtual std::vector<std::unique_ptr<Op>> getGradOps() { throw error("no gradient"); }
  virtual const std::vector<GradInOutMapper> &gradInputInfo() const { throw error("no gradient op"); }
  virtual const std::map<int, int> &gradOutToNonGradIn() const { throw error("no gradient op"); }
  virtual std::vector<std::tuple<OperatorIdentifier, float>> inplacePriorityDefault() const { return {}; }
  virtual std::unique_ptr<Op> getInplaceVariant(const OperatorIdentifier &) const { throw error("no such variant"); }
  virtual void growAliasModel(AliasModel &) const;
  virtual poprithms::memory::inplace::Proposal mapInplaceProposal(const AliasModel &, OperatorIdentifier) const {
    throw error("no inplace proposal");
  }
  virtual poprithms::memory::inplace::Proposal mapInplaceProposalGate0(const AliasModel &, OperatorIdentifier) const {
    return {gate, 0};
  }
  virtual view::Regions modifies(InIndex) const;
  virtual view::Regions uses(InIndex) const;
  virtual view::Regions aliases(InIndex, OutIndex) const;
  virtual void appendAttributes(OpSerialiserBase &) const;
  virtual void appendOutlineAttributes(OpSerialiserBase &) const;

  bool isOutplace() const;
  float getLowSubgraphValue() const { return 0.1f; }
  TensorInfo &inInfo(InIndex) { return in.info; }
  TensorInfo &outInfo(OutIndex) { return out.info; }
  const Shape &outShape(OutIndex) const { return out.info.shape(); }
  const TensorId inId(InIndex) const { return in.id; }
  const Tensor *outTensor(OutIndex) const { return &out; }

  OperatorIdentifier opid;
  Settings settings;
  Tensor in, out;
  static constexpr long gate = 7;
};

}  // namespace popart
