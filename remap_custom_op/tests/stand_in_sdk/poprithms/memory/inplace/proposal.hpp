#pragma once

namespace poprithms {
namespace memory {
namespace inplace {

struct Proposal {
  long gate;
  int input;
};

}  // namespace inplace
}  // namespace memory
}  // namespace poprithms
