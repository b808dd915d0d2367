#pragma once

#include <popart/op.hpp>

namespace popart {

// As PopART's: each type of value is a member of its own.
class OpSerialiserBase {
 public:
  void appendAttribute(const std::string &name, std::int64_t value) { append(name, std::to_string(value)); }
  void appendAttribute(const std::string &name, bool value) { append(name, value ? "true" : "false"); }
  void appendAttribute(const std::string &name, const std::string &value) { append(name, value); }

  std::string text;

 private:
  void append(const std::string &name, const std::string &value) { text += name + "=" + value + ";"; }
};

inline void Op::appendAttributes(OpSerialiserBase &serialiser) const {
  appendOutlineAttributes(serialiser);
  serialiser.appendAttribute("scope", settings.name);
}
inline void Op::appendOutlineAttributes(OpSerialiserBase &serialiser) const {
  serialiser.appendAttribute("recompute", std::string("NO"));
}

}  // namespace popart
