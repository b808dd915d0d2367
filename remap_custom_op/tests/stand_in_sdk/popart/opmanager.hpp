#pragma once

#include <popart/op.hpp>
#include <variant>

namespace popart {

class Attributes {
 public:
  using Int = std::int64_t;
  using String = std::string;

  template <typename T>
  T getAttribute(const std::string &name, const T &otherwise) const {
    const auto found = values.find(name);
    return found == values.end() ? otherwise : std::get<T>(found->second);
  }

  std::map<std::string, std::variant<Int, String>> values;
};

struct OpCreatorInfo {
  const OperatorIdentifier &opid;
  const Op::Settings &settings;
  const Attributes &attributes;
};

class OpDefinition {
 public:
  struct Input {
    Input(std::string n, std::vector<DataType> t) : name(std::move(n)), types(std::move(t)) {}
    std::string name;
    std::vector<DataType> types;
  };
  using Output = Input;
  struct Attribute {
    Attribute(std::string r) : regex(std::move(r)) {}
    std::string regex;
  };
  using DataTypes = std::vector<DataType>;
  using Inputs = std::vector<Input>;
  using Outputs = std::vector<Output>;
  using Attributes = std::map<std::string, Attribute>;

  OpDefinition(Inputs i, Outputs o, Attributes a)
      : inputs(std::move(i)), outputs(std::move(o)), attributes(std::move(a)) {}
  Inputs inputs;
  Outputs outputs;
  Attributes attributes;
};

using OpDefinitions = std::map<OperatorIdentifier, OpDefinition>;

struct OpManager {
  using Factory = std::function<std::unique_ptr<Op>(const OpCreatorInfo &)>;
  static std::map<OperatorIdentifier, std::pair<OpDefinition, Factory>> &registered() {
    static std::map<OperatorIdentifier, std::pair<OpDefinition, Factory>> ops;
    return ops;
  }
};

template <typename OP>
class OpCreator {
 public:
  OpCreator(const OpDefinitions &definitions, OpManager::Factory factory, bool) {
    for (const auto &[id, definition] : definitions) {
      OpManager::registered().emplace(id, std::make_pair(definition, factory));
    }
  }
};

}  // namespace popart
