// Compares the host GEMM libraries of the distribution at the shapes of a GPT-2 124M step: forward (y = x W^T), input
// gradient (dx = dy W) and weight gradient (dw = dy^T x). Not part of Strata: see bench/CMakeLists.txt.
// usage: gemm_libraries [repeats]; prints a Markdown table of GFLOP/s (median) for 1 and 2 threads.
#include <cblas.h>
#include <omp.h>

#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <dnnl.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

// c[m, n] = sum over k of a(m, k) b(k, n), all row-major; trans_x: stored as its transpose.
struct Gemm {
  std::string name;
  std::int64_t m, n, k;
  bool trans_a, trans_b;
  double flop() const { return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k); }
};

std::vector<Gemm> gemms() {
  struct Layer {
    std::int64_t rows, in, out;
  };
  const Layer layers[] = {{4096, 768, 768}, {4096, 768, 2304}, {4096, 768, 3072}, {4096, 3072, 768}, {512, 768, 50257},
                          {256, 768, 768},  {256, 768, 2304},  {256, 768, 3072},  {256, 3072, 768},  {256, 768, 50257}};
  std::vector<Gemm> all;
  for (const auto& [rows, in, out] : layers) {
    const std::string label = std::to_string(rows) + " x " + std::to_string(in) + " -> " + std::to_string(out);
    all.push_back({label + " forward", rows, out, in, false, true});
    all.push_back({label + " dX", rows, in, out, false, false});
    all.push_back({label + " dW", out, in, rows, true, false});
  }
  return all;
}

double median_seconds(int repeats, const std::function<void()>& run) {
  run();
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    const auto begin = Clock::now();
    run();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

struct Operands {
  std::vector<float> a, b, c;
  explicit Operands(const Gemm& g)
      : a(static_cast<std::size_t>(g.m * g.k)), b(static_cast<std::size_t>(g.k * g.n)), c(static_cast<std::size_t>(g.m * g.n)) {
    std::srand(1);
    for (float& x : a) x = static_cast<float>(std::rand()) / static_cast<float>(RAND_MAX) - 0.5f;
    for (float& x : b) x = static_cast<float>(std::rand()) / static_cast<float>(RAND_MAX) - 0.5f;
  }
};

double openblas(const Gemm& g, Operands& o, int repeats) {
  const int m = static_cast<int>(g.m), n = static_cast<int>(g.n), k = static_cast<int>(g.k);
  return median_seconds(repeats, [&] {
    cblas_sgemm(CblasRowMajor, g.trans_a ? CblasTrans : CblasNoTrans, g.trans_b ? CblasTrans : CblasNoTrans, m, n, k, 1.0f,
                o.a.data(), g.trans_a ? m : k, o.b.data(), g.trans_b ? k : n, 0.0f, o.c.data(), n);
  });
}

double eigen(const Gemm& g, Operands& o, int repeats) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Map<const Matrix> a(o.a.data(), g.trans_a ? g.k : g.m, g.trans_a ? g.m : g.k);
  const Eigen::Map<const Matrix> b(o.b.data(), g.trans_b ? g.n : g.k, g.trans_b ? g.k : g.n);
  Eigen::Map<Matrix> c(o.c.data(), g.m, g.n);
  return median_seconds(repeats, [&] {
    if (g.trans_a) {
      c.noalias() = a.transpose() * b;
    } else if (g.trans_b) {
      c.noalias() = a * b.transpose();
    } else {
      c.noalias() = a * b;
    }
  });
}

using dnnl::memory;
using Type = memory::data_type;

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const memory::desc& a, const memory::desc& b,
                                      const memory::desc& c) {
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::matmul::primitive_desc(engine, a, b, c);
#else
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), engine);
#endif
}

// packed: b is reordered into the layout the library prefers, inside the measured time. reuse: outside of it.
enum class Packing { none, each_call, reuse };

double onednn(const Gemm& g, Operands& o, Type type, Packing packing, int repeats) {
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const auto strides = [](bool transposed, std::int64_t rows, std::int64_t cols) {
    return transposed ? memory::dims{1, rows} : memory::dims{cols, 1};
  };
  const memory::desc a_f32({g.m, g.k}, Type::f32, strides(g.trans_a, g.m, g.k));
  const memory::desc b_f32({g.k, g.n}, Type::f32, strides(g.trans_b, g.k, g.n));
  const memory::desc a_plain({g.m, g.k}, type, strides(g.trans_a, g.m, g.k));
  const memory::desc b_plain({g.k, g.n}, type, strides(g.trans_b, g.k, g.n));
  const memory::desc c_plain({g.m, g.n}, g.trans_a ? Type::f32 : type, memory::format_tag::ab);
  memory a(a_plain, engine), b(b_plain, engine), c(c_plain, engine);
  memory a_source(a_f32, engine, o.a.data()), b_source(b_f32, engine, o.b.data());
  dnnl::reorder(a_source, a).execute(stream, a_source, a);
  dnnl::reorder(b_source, b).execute(stream, b_source, b);
  const memory::desc b_any({g.k, g.n}, type, memory::format_tag::any);
  const auto pd = describe(engine, a_plain, packing == Packing::none ? b_plain : b_any, c_plain);
  const dnnl::matmul matmul(pd);
  memory b_packed(pd.weights_desc(), engine);
  const dnnl::reorder pack(b, b_packed);
  pack.execute(stream, b, b_packed);
  stream.wait();
  return median_seconds(repeats, [&] {
    if (packing == Packing::each_call) pack.execute(stream, b, b_packed);
    matmul.execute(stream, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, packing == Packing::none ? b : b_packed}, {DNNL_ARG_DST, c}});
    stream.wait();
  });
}

void print_row(const Gemm& g, int threads, int repeats) {
  omp_set_num_threads(threads);
  openblas_set_num_threads(threads);
  Eigen::setNbThreads(threads);
  Operands o(g);
  std::printf("| %s | %d |", g.name.c_str(), threads);
  const auto cell = [&](double seconds) { std::printf(" %.0f |", g.flop() / seconds / 1e9); };
  cell(openblas(g, o, repeats));
  cell(eigen(g, o, repeats));
  for (const Type type : {Type::f32, Type::bf16}) {
    cell(onednn(g, o, type, Packing::none, repeats));
    cell(onednn(g, o, type, Packing::each_call, repeats));
    cell(onednn(g, o, type, Packing::reuse, repeats));
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::max(1, std::atoi(argv[1])) : 5;
  const dnnl_version_t* v = dnnl_version();
  std::printf("oneDNN %d.%d.%d, %s, Eigen %d.%d.%d; GFLOP/s, median of %d\n\n", v->major, v->minor, v->patch,
              openblas_get_config(), EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION, repeats);
  std::printf(
      "| shape | threads | OpenBLAS f32 | Eigen f32 | oneDNN f32 | f32, B packed each call | f32, B packed once "
      "| oneDNN bf16 | bf16, B packed each call | bf16, B packed once |\n|---|---|---|---|---|---|---|---|---|---|\n");
  for (const int threads : {1, 2}) {
    for (const Gemm& g : gemms()) print_row(g, threads, repeats);
  }
  return 0;
}
