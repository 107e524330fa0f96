// Ranks with a policy that `pygrade export` compiled, in a process without Python: libtorch and the library of the ops.
//
//   pygrade export --policy DIR --out policy.pt2
//   g++ -std=c++20 run_pt2.cpp -I$TORCH/include -I$TORCH/include/torch/csrc/api/include -L$TORCH/lib -ltorch_cpu -lc10
//   LD_LIBRARY_PATH=$TORCH/lib ./a.out libpygrade_ops.so policy.pt2 REQUESTS CANDIDATES FOLDER
//
// FOLDER has context.bin [REQUESTS, F] and predictions.bin [REQUESTS, CANDIDATES, T], float32; scores.bin and
// indices.bin [REQUESTS, k] are written there.
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {
// float32 [rows, …, last]; the last size follows from the size of the file.
at::Tensor read(const std::string& path, std::vector<std::int64_t> sizes) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("can't read " + path);
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  sizes.push_back(-1);
  const auto count = static_cast<std::int64_t>(bytes.size() / sizeof(float));
  return torch::from_blob(bytes.data(), {count}, torch::kFloat).clone().view(sizes);
}

void write(const std::string& path, const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(plain.const_data_ptr()), static_cast<std::streamsize>(plain.nbytes()));
  if (!file) throw std::runtime_error("can't write " + path);
}

void run(const std::string& library, const std::string& model, std::int64_t requests, std::int64_t candidates,
         const std::string& folder) {
  // The ops register when the library is loaded: before the model, which looks them up.
  if (dlopen(library.c_str(), RTLD_NOW) == nullptr) throw std::runtime_error(dlerror());
  torch::inductor::AOTIModelPackageLoader policy(model);
  std::cout << policy.get_metadata().at("pygrade") << '\n';  // JSON: version, tasks, features, inputs, outputs
  const at::Tensor context = read(folder + "/context.bin", {requests});
  const at::Tensor predictions = read(folder + "/predictions.bin", {requests, candidates});

  const c10::InferenceMode no_gradients;
  at::set_num_threads(1);  // a server's threads rank a request each
  std::vector<at::Tensor> scores, indices;
  std::vector<double> microseconds;
  for (std::int64_t r = 0; r < requests; ++r) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<at::Tensor> page = policy.run({context.narrow(0, r, 1), predictions.narrow(0, r, 1)});
    microseconds.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    scores.push_back(page.at(0));
    indices.push_back(page.at(1));
  }
  write(folder + "/scores.bin", torch::cat(scores));
  write(folder + "/indices.bin", torch::cat(indices));
  std::ranges::sort(microseconds);
  std::cout << requests << " pages, " << microseconds[microseconds.size() / 2] << " µs each (median)\n";
}
}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: run_pt2 OPS.so POLICY.pt2 REQUESTS CANDIDATES FOLDER\n";
    return 2;
  }
  try {
    run(argv[1], argv[2], std::stoll(argv[3]), std::stoll(argv[4]), argv[5]);
  } catch (const std::exception& error) {
    std::cerr << "run_pt2: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
