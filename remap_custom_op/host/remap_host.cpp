// The remap on a host: the torch operator remap::RemapCE lays a tensor out over imagined tiles by the plan that the
// IPU uses, reads it back, and so returns its input. A plan that is wrong shows: a gap as NaN, the rest as an error.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cstring>

#include "remap/attributes.hpp"
#include "remap/tile_plan.hpp"

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The operator's arguments after the tensor, in the order of the schema.
struct Arguments {
  std::int64_t forward_grain, backward_grain;
  std::int64_t forward_clone, backward_clone;
  std::int64_t forward_after_matmul, backward_after_matmul;
  c10::string_view debug_name;
  std::int64_t tiles;
};

const char *const kSchema =
    "RemapCE(Tensor data, *, int fwd_grain_size=8, int bwd_grain_size=0, int fwd_clone_layout=0, "
    "int bwd_clone_layout=0, int fwd_after_matmul=0, int bwd_after_matmul=0, str debug_str='remap', "
    "int tiles=1472) -> Tensor";

using Signature = Tensor(const Tensor &, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                         std::int64_t, c10::string_view, std::int64_t);

Tensor call(const Tensor &data, const Arguments &a) {
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow("remap::RemapCE", "").typed<Signature>();
  return handle.call(data, a.forward_grain, a.backward_grain, a.forward_clone, a.backward_clone,
                     a.forward_after_matmul, a.backward_after_matmul, a.debug_name, a.tiles);
}

// Write the flattened `source` tile by tile into their memories and read it back. Bytes that the plan does not map
// stay 0xff, which is NaN in every floating-point type.
Tensor through_tiles(const Tensor &source, std::int64_t grain, std::int64_t tiles) {
  const remap::TilePlan plan(source.numel(), grain, tiles);
  const auto bytes = static_cast<std::int64_t>(source.element_size());
  const std::int64_t stride = plan.capacity() * bytes;
  const auto memory = at::empty({tiles, stride}, source.options().dtype(at::kByte));
  auto result = at::empty(source.sizes(), source.options().memory_format(at::MemoryFormat::Contiguous));
  const auto *from = static_cast<const char *>(source.data_ptr());
  auto *to = static_cast<char *>(result.data_ptr());
  auto *tile_memory = static_cast<char *>(memory.data_ptr());
  const auto total = static_cast<std::int64_t>(result.nbytes());
  std::memset(to, 0xff, static_cast<std::size_t>(total));
  std::int64_t mapped = 0;
  for (std::int64_t pass = 0; pass < 2; ++pass) {
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const auto interval = plan.on_tile(tile);
      const std::int64_t offset = interval.begin * bytes, size = interval.size() * bytes;
      TORCH_CHECK(size >= 0 && size <= stride && offset >= 0 && offset + size <= total, "remap: tile ", tile,
                  " is mapped outside of the tensor");
      if (size == 0) continue;
      char *const here = tile_memory + tile * stride;
      if (pass == 0) {
        std::memcpy(here, from + offset, static_cast<std::size_t>(size));
        mapped += size;
      } else {
        std::memcpy(to + offset, here, static_cast<std::size_t>(size));
      }
    }
  }
  TORCH_CHECK(mapped <= total, "remap: tiles share elements");
  return result;
}

Tensor round_trip(const Tensor &data, const remap::Layout &layout, std::int64_t tiles) {
  auto source = data.contiguous();
  if (layout.clone) return source.is_same(data) ? data.clone() : source;
  if (layout.after_matmul && source.numel() > 0) {
    const std::int64_t columns = source.size(-1), group = remap::group_size(columns);
    const auto groups = source.view({-1, columns / group, group}).transpose(0, 1).contiguous();  // [x / g, y, g]
    source = through_tiles(groups, group, tiles).transpose(0, 1).reshape(data.sizes());
  }
  return through_tiles(source.contiguous(), layout.grain_size, tiles);
}

// Check everything that does not depend on the values.
remap::Layout forward_layout(const Tensor &data, const Arguments &a) {
  const std::string name(a.debug_name.data(), a.debug_name.size());
  std::string problem;
  const auto attributes =
      remap::make_attributes(a.forward_grain, a.backward_grain, a.forward_clone, a.backward_clone,
                             a.forward_after_matmul, a.backward_after_matmul, name, problem);
  if (problem.empty()) problem = remap::misfit(attributes.forward, data.sizes().vec());
  if (problem.empty()) problem = remap::misfit(attributes.backward, data.sizes().vec());
  if (problem.empty() && a.tiles < 1) problem = "tiles is " + std::to_string(a.tiles) + ": give at least 1";
  TORCH_CHECK_VALUE(problem.empty(), "RemapCE \"", name, "\": ", problem);
  TORCH_CHECK_TYPE(at::isFloatingType(data.scalar_type()), "RemapCE \"", name, "\": ", data.scalar_type(),
                   " is no floating-point type");
  return attributes.forward;
}

Tensor on_cpu(const Tensor &data, std::int64_t fg, std::int64_t bg, std::int64_t fc, std::int64_t bc, std::int64_t fm,
              std::int64_t bm, c10::string_view name, std::int64_t tiles) {
  return round_trip(data, forward_layout(data, {fg, bg, fc, bc, fm, bm, name, tiles}), tiles);
}

Tensor shape_only(const Tensor &data, std::int64_t fg, std::int64_t bg, std::int64_t fc, std::int64_t bc,
                  std::int64_t fm, std::int64_t bm, c10::string_view name, std::int64_t tiles) {
  forward_layout(data, {fg, bg, fc, bc, fm, bm, name, tiles});
  return at::empty_symint(data.sym_sizes(), data.options().memory_format(at::MemoryFormat::Contiguous));
}

// Forward applies the forward attributes, backward the same operator with the directions exchanged.
struct Remap : public torch::autograd::Function<Remap> {
  static Tensor forward(AutogradContext *context, const Tensor &data, const Arguments &a) {
    context->saved_data["integers"] =
        std::vector<std::int64_t>{a.forward_grain,        a.backward_grain,        a.forward_clone, a.backward_clone,
                                  a.forward_after_matmul, a.backward_after_matmul, a.tiles};
    context->saved_data["name"] = std::string(a.debug_name.data(), a.debug_name.size());
    at::AutoDispatchBelowADInplaceOrView below;
    return call(data, a);
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    const auto i = context->saved_data["integers"].toIntVector();
    const auto name = context->saved_data["name"].toStringRef();
    const std::int64_t backward_grain = i[1] ? i[1] : i[0];
    return {call(gradients[0], {backward_grain, i[0], i[3], i[2], i[5], i[4], name, i[6]}), Tensor()};
  }
};

Tensor with_autograd(const Tensor &data, std::int64_t fg, std::int64_t bg, std::int64_t fc, std::int64_t bc,
                     std::int64_t fm, std::int64_t bm, c10::string_view name, std::int64_t tiles) {
  return Remap::apply(data, Arguments{fg, bg, fc, bc, fm, bm, name, tiles});
}

// (tiles, 2): first element and end of each tile's interval.
Tensor tile_intervals(std::int64_t elements, std::int64_t grain_size, std::int64_t tiles) {
  const remap::TilePlan plan(elements, grain_size, tiles);
  auto result = at::empty({tiles, 2}, at::kLong);
  auto *to = result.data_ptr<std::int64_t>();
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const auto interval = plan.on_tile(tile);
    *to++ = interval.begin;
    *to++ = interval.end;
  }
  return result;
}

}  // namespace

TORCH_LIBRARY(remap, library) {
  library.def(kSchema);
  library.def("tile_intervals(int elements, int grain_size, int tiles) -> Tensor", tile_intervals);
}

TORCH_LIBRARY_IMPL(remap, CPU, library) { library.impl("RemapCE", on_cpu); }
TORCH_LIBRARY_IMPL(remap, Meta, library) { library.impl("RemapCE", shape_only); }
TORCH_LIBRARY_IMPL(remap, Autograd, library) { library.impl("RemapCE", with_autograd); }
