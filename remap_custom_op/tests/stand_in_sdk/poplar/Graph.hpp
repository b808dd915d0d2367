// Stand-in for the Poplar SDK, written for these tests: the declarations that the binding uses, with so much behind
// them that a graph can be run. A tensor is a list of elements of variables; an element has a value and at most one tile.
#pragma once

#include <cstddef>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace poplar {

struct poplar_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Type { HALF, FLOAT };

struct DebugContext {
  DebugContext(std::string text = "") : name(std::move(text)) {}
  DebugContext(const char *text) : name(text) {}
  std::string name;
};

struct Interval {
  std::size_t begin, end;
  bool operator==(const Interval &other) const { return begin == other.begin && end == other.end; }
};

class Target {
 public:
  explicit Target(unsigned tiles) : tiles_(tiles) {}
  unsigned getNumTiles() const { return tiles_; }

 private:
  unsigned tiles_;
};

struct Element {
  std::size_t variable, index;
};

class Tensor {
 public:
  Tensor() = default;
  Tensor(Type type, std::vector<std::size_t> shape, std::vector<Element> elements)
      : type_(type), shape_(std::move(shape)), elements_(std::move(elements)) {
    if (count(shape_) != elements_.size()) throw poplar_error("shape and elements disagree");
  }

  Type elementType() const { return type_; }
  std::vector<std::size_t> shape() const { return shape_; }
  unsigned rank() const { return static_cast<unsigned>(shape_.size()); }
  std::size_t dim(unsigned i) const { return shape_.at(i); }
  std::size_t numElements() const { return elements_.size(); }
  const std::vector<Element> &elements() const { return elements_; }

  Tensor reshape(const std::vector<std::size_t> &shape) const { return {type_, shape, elements_}; }
  Tensor flatten() const { return reshape({numElements()}); }

  Tensor slice(std::size_t begin, std::size_t end, unsigned dimension) const {
    if (rank() != 1 || dimension != 0) throw poplar_error("the stand-in slices vectors only");
    if (begin > end || end > numElements()) throw poplar_error("slice outside of the tensor");
    const auto at = [this](std::size_t i) { return elements_.begin() + static_cast<std::ptrdiff_t>(i); };
    return {type_, {end - begin}, {at(begin), at(end)}};
  }

  Tensor dimShuffle(const std::vector<unsigned> &permutation) const {
    std::vector<std::size_t> shape, strides, index(rank(), 0);
    for (const unsigned d : permutation) {
      shape.push_back(shape_.at(d));
      strides.push_back(count({shape_.begin() + d + 1, shape_.end()}));
    }
    std::vector<Element> elements;
    for (std::size_t n = 0; n < numElements(); ++n) {
      elements.push_back(elements_.at(std::inner_product(index.begin(), index.end(), strides.begin(), std::size_t{0})));
      for (std::size_t d = rank(); d-- > 0 && ++index[d] == shape[d];) index[d] = 0;
    }
    return {type_, shape, elements};
  }

 private:
  static std::size_t count(const std::vector<std::size_t> &shape) {
    std::size_t product = 1;
    for (const auto size : shape) product *= size;
    return product;
  }

  Type type_ = Type::FLOAT;
  std::vector<std::size_t> shape_{0};
  std::vector<Element> elements_;
};

class Graph {
 public:
  explicit Graph(unsigned tiles) : target_(tiles) {}
  const Target &getTarget() const { return target_; }

  Tensor addVariable(Type type, const std::vector<std::size_t> &shape, const DebugContext &context = {}) {
    std::size_t size = 1;
    for (const auto n : shape) size *= n;
    std::vector<Element> elements;
    for (std::size_t i = 0; i < size; ++i) elements.push_back({values.size(), i});
    values.emplace_back(size, -1.0);
    tiles.emplace_back(size, kUnmapped);
    names.push_back(context.name);
    return {type, shape, elements};
  }

  Tensor clone(const Tensor &tensor, const DebugContext &context = {}) {
    const auto copy = addVariable(tensor.elementType(), tensor.shape(), context);
    for (std::size_t i = 0; i < tensor.numElements(); ++i) tile(copy.elements()[i]) = tile(tensor.elements()[i]);
    return copy;
  }

  void setTileMapping(const Tensor &tensor, unsigned to) {
    if (to >= target_.getNumTiles()) throw poplar_error("no such tile");
    for (const auto &element : tensor.elements()) {
      if (tile(element) != kUnmapped) throw poplar_error("an element is mapped twice");
      tile(element) = to;
    }
  }

  std::vector<std::vector<Interval>> getTileMapping(const Tensor &tensor) const {
    std::vector<std::vector<Interval>> mapping(target_.getNumTiles());
    for (std::size_t i = 0; i < tensor.numElements(); ++i) {
      const auto element = tensor.elements()[i];
      auto &intervals = mapping.at(tiles.at(element.variable).at(element.index));
      if (!intervals.empty() && intervals.back().end == i) {
        ++intervals.back().end;
      } else {
        intervals.push_back({i, i + 1});
      }
    }
    return mapping;
  }

  unsigned &tile(const Element &element) { return tiles.at(element.variable).at(element.index); }
  double &value(const Element &element) { return values.at(element.variable).at(element.index); }

  static constexpr unsigned kUnmapped = ~0u;
  std::vector<std::vector<double>> values;
  std::vector<std::vector<unsigned>> tiles;
  std::vector<std::string> names;

 private:
  Target target_;
};

}  // namespace poplar
