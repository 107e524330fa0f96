// A deterministic mutation fuzzer for everything that reads external input: JSON, safetensors, policies, multi-task
// models, preranks, feature schemas and their fitted values, records of a store, the arguments of the C ABI, and the
// bodies of requests to the service.
//
//   fuzz [RUNS] [SEED]
//
// Run i of a seed is the same on every machine. A run passes if the input is refused with its declared error, or is
// accepted and then behaves; anything else ends the program. Meant for the sanitizers, which also end it on
// out-of-bounds accesses, overflows and leaks. The last line says how many inputs were accepted: a fuzzer whose inputs
// are all refused tests little.
//
// The preset libfuzzer makes libFuzzer's program of the same targets: the first byte of an input names the target, the
// next ones are what it draws or, if it is odd, what is left is a text that takes the place of the first mutated one.
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <sstream>
#include <string_view>
#include <utility>

#include "feature_files.hpp"
#include "mtl_artifact.hpp"
#include "prerank.hpp"
#include "pygrade/pygrade.h"
#include "service_run.hpp"
#include "serving.hpp"
#include "util/safetensors.hpp"

using namespace pygrade;
using namespace pygrade::tests;

namespace {
class Random {  // splitmix64, after the bytes of libFuzzer if there are any
 public:
  explicit Random(std::uint64_t seed, std::string_view drawn = {}, bool raw = false)
      : state_(seed), drawn_(drawn), raw_(raw) {}
  std::uint64_t next() { return drawn_.empty() ? mix() : take(sizeof(std::uint64_t)); }
  std::size_t below(std::size_t count) {
    if (count == 0) return 0;
    return static_cast<std::size_t>((count <= 256 && !drawn_.empty() ? take(1) : next()) % count);
  }
  bool one_in(std::size_t count) { return below(count) == 0; }
  // A text of libFuzzer's own, once.
  bool replaces(std::string& text) {
    if (!raw_) return false;
    text = std::exchange(drawn_, {});
    raw_ = false;
    return true;
  }

 private:
  std::uint64_t mix() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
  }
  std::uint64_t take(std::size_t most) {
    std::uint64_t value = 0;
    const std::size_t size = std::min(most, drawn_.size());
    std::memcpy(&value, drawn_.data(), size);
    drawn_.remove_prefix(size);
    return value;
  }

  std::uint64_t state_;
  std::string_view drawn_;
  bool raw_;
};

[[noreturn]] void end(const char* what) {
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

void expect(bool good, const char* what) {
  if (!good) end(what);
}

// ---- mutations

// Between blanks, and a word of features with one.
const std::vector<std::string> tokens = [] {
  std::istringstream words(
      R"({ } [ ] , : " \ \u \ud800 \udc00 null true NaN -Infinity 1e999 -1 0 1e308 4294967296 9007199254740993)"
      R"( 18446744073709551615 1.5 F32 F64 I64 [[[[[[[[ {"a":{"a":{"a": click config hidden tasks window_hours)"
      " \xff \xc3\xa9 \xed\xa0\x80 \xef\xbb\xbf \"key\":[\"item.author\"] \"kind\":\"count\"");
  return std::vector<std::string>{std::istream_iterator<std::string>(words), {}};
}();

void mutate(std::string& text, Random& random) {
  if (random.replaces(text)) return;
  const std::size_t count = 1 + random.below(random.one_in(4) ? 8 : 2);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t at = random.below(text.size() + 1);
    const std::size_t length = random.below(random.one_in(8) ? 64 : 4) + 1;
    switch (random.below(8)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ 1 << random.below(8));
        break;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(random.next());
        break;
      case 2:
        text.erase(at, length);
        break;
      case 3:
        text.insert(at, text.substr(random.below(text.size() + 1), length));
        break;
      case 4:
        text.insert(at, tokens[random.below(tokens.size())]);
        break;
      case 5: {
        const auto& token = tokens[random.below(tokens.size())];
        text.replace(at, std::min(token.size(), text.size() - at), token);
        break;
      }
      case 6:
        if (random.one_in(4)) text.resize(at);
        break;
      default: {  // replace one number
        std::size_t begin = text.find_first_of("0123456789", at);
        if (begin == text.npos) break;
        const std::size_t after = std::min(text.find_first_not_of("0123456789", begin), text.size());
        constexpr std::uint64_t near[] = {0, 1, 2, 3, 4, 7, 8, 16, 63, 64, 65, 255, 1u << 16, 1ull << 31, 1ull << 53};
        text.replace(begin, after - begin, std::to_string(near[random.below(std::size(near))] + random.below(3)));
      }
    }
  }
}

// ---- values

float any_float(Random& random) {
  constexpr float special[] = {0.0f,   -0.0f, 1.0f,      -1.0f,
                               1e-45f, 3e38f, nan_value, std::numeric_limits<float>::infinity()};
  if (random.one_in(200)) return special[random.below(std::size(special))];
  return static_cast<float>(random.next() >> 40) * 0x1p-24f;
}

template <class T, class Make>
std::vector<T> some(std::size_t count, Make make) {
  std::vector<T> values(count);
  for (T& value : values) value = make();
  values.shrink_to_fit();
  return values;
}

// ---- readers

bool run_json(Random& random) {
  static const std::string corpus[] = {
      Artifact{}.draw().json(), R"({"a": [1, -2.5e+3, true, false, null, NaN], "b": {"c": "\u00e9\ud83d\ude00\n"}})",
      "[[[]], {}, \"\", 0, -0.0, 1e-300]", "[0.123456, 1e-05, 12345678901234567890, 0.019999999552965164, 0.25, 7]"};
  std::string text = corpus[random.below(std::size(corpus))];
  mutate(text, random);
  const auto read = [](const std::string& given) -> std::string {
    try {
      return detail::json_text(detail::Json::parse(given, {.values = 1000, .depth = 8}));
    } catch (const detail::JsonError&) {
      return "refused";
    }
  };
  expect(read(text) == read(text + std::string(100, ' ')), "what follows a text changes it");
  try {
    const detail::Json value = detail::Json::parse(text, {.bytes = 1 << 16, .values = 1000, .depth = 8});
    if (value.type == detail::Json::Type::string)
      expect(detail::Json::parse(detail::json_quote(value.string)).string == value.string, "a quoted string changed");
    if (const auto* a = value.find("a"); a != nullptr && a->type == detail::Json::Type::array)
      expect(value.at("a").items.size() == a->items.size(), "a value was lost");
    detail::JsonReader reader(text, {.bytes = 1 << 16, .values = 1000, .depth = 8});
    expect(!reader.skip().empty(), "a value has no text");
    reader.end();
    return true;
  } catch (const detail::JsonError&) {
    return false;
  }
}

bool run_safetensors(Random& random) {
  static const std::string corpus = [] {
    Artifact artifact;
    artifact.tensors = {{"a", {{3}, {1, 2, 3}}}, {"b", {{2, 2}, {1, 2, 3, 4}}}, {"c", {{0, 2}, {}}}};
    return artifact.safetensors();
  }();
  const std::uint64_t length = corpus.size() - 8 - 28;
  std::string header = corpus.substr(8, length);
  std::string data = corpus.substr(8 + length);
  std::string content;
  if (random.one_in(3)) {
    content = corpus;
    mutate(content, random);
  } else {
    mutate(header, random);
    if (random.one_in(4)) data.resize(random.below(40));
    content = Artifact::frame(header) + data;
  }
  const std::vector<char> exact(content.begin(),
                                content.end());  // a separate allocation, so that reading past the end is detected
  try {
    const auto tensors = detail::read_safetensors(std::as_bytes(std::span(exact)));
    std::size_t covered = 0;
    unsigned sum = 0;
    for (const auto& tensor : tensors) {
      covered += tensor.bytes.size();
      for (const std::byte b : tensor.bytes) sum += std::to_integer<unsigned>(b);
    }
    expect(covered + 8 <= content.size() && sum <= 255 * covered, "tensors cover more than there is");
    return true;
  } catch (const detail::SafetensorsError&) {
    return false;
  }
}

void check_page(const Ranker& ranker, const PageMemory& memory, const Page& page, std::size_t candidates) {
  expect(page.filled >= 0 && static_cast<std::size_t>(page.filled) <= memory.indices.size(), "filled is out of range");
  std::vector<bool> seen(candidates);
  for (std::int32_t i = 0; i < page.filled; ++i) {
    const auto index = static_cast<std::size_t>(memory.indices[static_cast<std::size_t>(i)]);
    expect(index < candidates && !seen[index], "an index is out of range or occurs twice");
    seen[index] = true;
  }
  if (page.fallback != Fallback::none) return;
  float sum = 0.0f;
  for (const float w : memory.weights) {
    expect(w >= 0.0f && w <= 1.0f, "a weight is outside 0 … 1");
    sum += w;
  }
  expect(std::abs(sum - 1.0f) < 1e-4f, "the weights do not sum to 1");
  expect(ranker.policy()->version() == page.version(), "another version served");
}

// The two files of an artifact.
struct Files {
  std::string json, tensors;

  // Damages both: bytes, and numbers of the tensors. Hashes are usually repaired, so that the code after their check is
  // reached.
  template <class Number>
  void damage(Random& random, std::string (*seal)(std::string)) {
    const std::string sum = Artifact::sha256(tensors);
    std::uint64_t header = 0;
    std::memcpy(&header, tensors.data(), sizeof header);
    const std::size_t numbers = (tensors.size() - 8 - header) / sizeof(Number);
    for (std::size_t i = 0, n = random.one_in(2) ? 1 + random.below(8) : 0; i < n; ++i) {
      const auto bits =
          static_cast<Number>(sizeof(Number) == 4 || random.one_in(2) ? random.next() : random.below(100));
      std::memcpy(tensors.data() + tensors.size() - sizeof bits * (1 + random.below(numbers)), &bits, sizeof bits);
    }
    if (random.one_in(3)) mutate(tensors, random);
    if (!random.one_in(8)) json.replace(json.find(sum), sum.size(), Artifact::sha256(tensors));
    if (random.one_in(2)) mutate(json, random);
    if (!random.one_in(8)) json = seal(json);
  }
};

// Whether an artifact is accepted; what is accepted behaves.
bool accepts(const std::function<void()>& use) {
  try {
    use();
    return true;
  } catch (const ArtifactError&) {
    return false;
  }
}

bool run_policy(Random& random) {
  static const std::vector<Files> origins = [] {
    std::vector<Files> made(9);
    for (unsigned i = 0; i < made.size(); ++i) {
      Artifact artifact;
      artifact.hidden.assign(1, 4);
      artifact.seed = i;
      if (i % 2 == 1) artifact.evidence_prior = "0.5";
      if (i == 3) artifact.evidence_scale = "log1p";
      if (i >= 4) artifact = mixed_artifact({{"logarithm", i == 4 ? "true" : "false"}});
      if (i >= 6) artifact = corrected_artifact(i == 6 ? "1" : "0.25");
      if (i == 7) artifact.correction->form = "\"marginal\"";
      if (i == 8) artifact.mixture = "null";
      artifact.draw();
      made[i] = {artifact.json(), artifact.safetensors()};
    }
    return made;
  }();
  Files files = origins[random.below(origins.size())];
  files.damage<std::uint32_t>(random, &Artifact::sealed);
  const auto use = [&] {
    const auto policy = Policy::parse(files.json, bytes(files.tensors));
    Ranker ranker(policy, {.seed = 1});
    const std::size_t tasks = policy->tasks().size();
    const std::vector<float> context(policy->features().size(), 0.5f);
    const auto predictions = make_predictions(5, tasks), prices = make_predictions(5, 1);
    const auto items = make_predictions(5, policy->items().size());
    const std::vector<float> values(policy->takes_values() && random.one_in(2) ? tasks : 0, 2.0f);
    PageMemory memory(3, tasks);
    const Request request{.context = context,
                          .predictions = predictions,
                          .explore = random.one_in(2),
                          .values = values,
                          .item_values = prices,
                          .items = items};
    check_page(ranker, memory, ranker.rank(request, memory), 5);
  };
  try {
    return accepts(use);
  } catch (const std::invalid_argument&) {  // concentrations whose sum overflows
    return false;
  }
}

// An accepted model predicts probabilities, whatever the rows are.
bool run_mtl(Random& random) {
  static const std::vector<Files> origins = [] {
    MtlArtifact made[2];
    made[0].funnel = {{0, 1}, {1, 2}};
    made[1].task_experts = 0;
    made[1].beta = {{0.5, 2.0, 0.25}, {1.0, 1.0, 0.0}, {2.0, 0.5, -1.0}};
    for (MtlArtifact& artifact : made) {
      artifact.hidden = artifact.output = artifact.tower = 2;
      artifact.draw();
    }
    return std::vector<Files>{{made[0].json(), made[0].safetensors()}, {made[1].json(), made[1].safetensors()}};
  }();
  Files files = origins[random.below(origins.size())];
  files.damage<std::uint32_t>(random, [](std::string text) { return text; });
  return accepts([&] {
    const auto model = MultiTaskModel::parse(files.json, bytes(files.tensors));
    const std::size_t n = 5, d = model->dense_columns().size(), f = model->id_columns().size();
    const auto dense = some<float>(n * d, [&] { return any_float(random); });
    const auto ids = some<std::int64_t>(n * f, [&] { return static_cast<std::int64_t>(random.next()); });
    std::vector<float> all(n * model->tasks().size(), nan_value), one(model->tasks().size(), nan_value);
    model->predict(dense, ids, all);
    const std::size_t qd = model->request_dense(), qf = model->request_ids();
    const std::span row(dense.data(), d);
    const std::span row_ids(ids.data(), f);
    model->predict_request(row.first(qd), row_ids.first(qf), row.subspan(qd), row_ids.subspan(qf), one);
    expect(std::memcmp(all.data(), one.data(), one.size() * sizeof(float)) == 0, "a row alone has other bits");
    for (const float p : all) expect(p >= MultiTaskModel::min_prediction && p <= 1.0f, "a prediction is out of bounds");
  });
}

bool run_prerank(Random& random) {
  static const std::vector<Files> origins = [] {
    std::vector<Files> made;
    for (unsigned i = 0; i < 3; ++i) {
      PrerankFiles files;
      if (i == 2) files.item_ids.clear(), files.sizes.clear();
      files.draw(i);
      made.push_back({files.json(), files.safetensors()});
    }
    return made;
  }();
  Files files = origins[random.below(origins.size())];
  files.damage<std::uint64_t>(random, [](std::string text) { return sealed_prerank(text); });  // ids among the numbers
  const auto use = [&] {
    const std::span<const std::byte> exact = bytes(files.tensors);
    const auto prerank =
        Prerank::parse(files.json, random.one_in(2) ? FileContent(exact)
                                                    : FileContent(std::vector<std::byte>(exact.begin(), exact.end())));
    const UserTower& tower = *prerank->tower();
    if (tower.length() > 1000) return;  // a request of this length is not worth its time
    const auto any = [&] { return static_cast<std::int64_t>(random.one_in(4) ? random.next() : random.below(30)); };
    const auto dense = some<float>(tower.request_dense(), [&] { return any_float(random); });
    const auto fields = some<std::int64_t>(tower.request_ids(), any);
    const auto sequence = some<std::int64_t>(tower.length(), any), seen = some<std::int64_t>(random.below(9), any);
    const auto eligible = some<std::int64_t>(random.below(40), any);
    std::vector<float> vector(prerank->width(), nan_value);
    prerank->user_vector(dense, fields, sequence, vector);
    expect(vector.back() == 1.0f, "a user's vector does not end with 1");
    std::optional<std::span<const std::int64_t>> allowed;
    if (random.one_in(2)) allowed = eligible;
    std::vector<std::int64_t> found(1 + random.below(25), -7);
    std::vector<float> scores(found.size());
    const std::size_t count = prerank->search(vector, seen, allowed, found, scores);
    expect(count <= found.size(), "more items than there is room for");
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (i >= count) expect(found[i] == -7, "search wrote past its items");
      if (i == 0 || i >= count) continue;
      expect(scores[i - 1] > scores[i] || (scores[i - 1] == scores[i] && found[i - 1] < found[i]),
             "items are out of order");
    }
  };
  try {
    return accepts(use);
  } catch (const std::invalid_argument&) {  // the vector overflows
    return false;
  }
}

// ---- features

// Reads a page and writes an event; every value must be what a model may be given.
void use_features(const std::shared_ptr<const Features>& features, const std::shared_ptr<MemoryStore>& store,
                  Random& random, bool& defaults) {
  FeatureCenter center(features, store);
  FeatureBuffer buffer;
  constexpr std::int64_t times[] = {0, -1, 1'700'000'000'000, INT64_MIN, INT64_MAX};
  constexpr std::int64_t items[] = {5, 6, 77, 5};
  const FeatureRequest request{1, times[random.below(std::size(times))], "feed"};
  for (int i = 0; i < 2; ++i) {
    center.read_user(request, buffer);
    center.read_items(items, buffer);
  }
  defaults = buffer.defaults;
  expect(center.counters().reads == 2, "a read was not counted");
  const std::size_t rows = std::size(items),
                    width = features->item_features().size() + features->cross_features().size();
  expect(buffer.item_ids.size() == rows * features->item_id_features().size(), "ids of another size");
  for (const std::int64_t id : buffer.item_ids) expect(id >= 0, "an id is negative");
  std::vector<float> dense(rows * width);
  features->normalize_rows(buffer.item_dense, buffer.cross_dense, dense);
  for (const float value : dense) expect(std::abs(value) <= 10.0f, "a normalized value is beyond its limit");
  const std::int64_t user = 1, item = 5, time = times[random.below(std::size(times))];
  const double click = 1.0, play = random.one_in(4) ? -1e300 : 3.0;
  const std::string_view scenario = "feed";
  const FeedbackEvents::Outcome outcomes[] = {
      {"y_click", {&click, 1}}, {"y_form_order", {&click, 1}}, {"m_play", {&play, 1}}};
  try {
    center.update({{&user, 1}, {&item, 1}, {&time, 1}, {&scenario, 1}, outcomes});
  } catch (const StoreError&) {
  } catch (const SchemaError&) {
  }
}

// Schema and fitted values, damaged. The hash is usually repaired, so that the code after its check is reached.
bool run_features(Random& random) {
  static const FittedFile good = fitted_file();
  std::string schema = schema_text;
  FittedFile file = good;
  if (!random.one_in(4)) mutate(schema, random);
  if (!random.one_in(8)) {
    try {
      file.hash = detail::Schema::parse(schema).hash;
    } catch (const detail::JsonError&) {
      return false;
    }
  }
  std::string fitted = file.content();
  if (random.one_in(2)) mutate(fitted, random);
  const std::vector<char> exact(fitted.begin(), fitted.end());
  return accepts([&] {
    const auto features = Features::parse(schema, std::as_bytes(std::span(exact)));
    bool defaults = false;
    use_features(features, make_store(*features), random, defaults);
  });
}

// The values of a store, damaged: cut, longer, or other numbers.
bool run_records(Random& random) {
  static const auto features = make_features();
  const auto store = make_store(*features);
  const std::string end = "." + features->hash();
  constexpr std::pair<const char*, std::int64_t> places[] = {
      {"meta", 0}, {"all", 0}, {"user", 1}, {"item", 5}, {"author", 70}, {"user_static", 1}, {"item_static", 5}};
  constexpr std::size_t widths[] = {0, 5, 28, 2, 3, 1, 5};
  for (std::size_t i = 0, n = 1 + random.below(3); i < n; ++i) {
    const std::size_t place = random.below(std::size(places));
    std::string& value = store->tables[places[place].first + (place == 0 ? "" : end)][places[place].second];
    if (place != 0) {
      value.resize(8 * widths[place]);
      for (char& byte : value) byte = static_cast<char>(random.next());
      if (random.one_in(2)) value.assign(value.size(), random.one_in(2) ? '\xff' : '\0');
    }
    if (place == 0 || random.one_in(4)) mutate(value, random);
    value.shrink_to_fit();
  }
  bool defaults = false;
  use_features(features, store, random, defaults);
  return !defaults;
}

// ---- the C ABI

std::size_t near(std::size_t value, Random& random) {
  if (!random.one_in(30)) return value;
  constexpr std::size_t wild[] = {0, 1, 2, 64, 65, std::size_t{1} << 31, std::size_t{1} << 62, SIZE_MAX};
  return random.one_in(2) ? value + random.below(3) - 1 : wild[random.below(std::size(wild))];
}

// A struct in an allocation of exactly `size` bytes; a longer one has a nonzero tail.
template <class Struct>
std::vector<std::byte> boxed(Struct value, Random& random) {
  std::size_t size = sizeof value;
  if (random.one_in(20)) size = sizeof(std::size_t) + random.below(sizeof value + 32);
  value.size = size;
  std::vector<std::byte> box(std::max(size, sizeof(std::size_t)), random.one_in(2) ? std::byte{0} : std::byte{1});
  std::memcpy(box.data(), &value, std::min(size, sizeof value));
  return box;
}

// The log of a page, with some arguments changed. The text must be whole lines and stay within its buffer.
void run_log(pygrade_ranker* ranker, const pygrade_request* request, pygrade_page page, std::size_t candidates,
             Random& random) {
  const auto items = some<std::int64_t>(candidates, [&] { return static_cast<std::int64_t>(random.next()); });
  constexpr std::string_view names[] = {"r1", "", "a,\"b\"\n", "\xff"};
  const std::string_view request_id = names[random.below(std::size(names))];
  pygrade_log_ids ids{};
  if (!random.one_in(5)) ids.request_id = request_id.data();
  ids.request_id_size = ids.request_id == nullptr ? near(2, random) : request_id.size();
  if (random.one_in(2)) ids.item_id = items.data();
  ids.timestamp = static_cast<std::int64_t>(random.next());
  ids.flags = static_cast<std::uint32_t>(random.one_in(30) ? random.next() : random.below(2));
  if (random.one_in(30)) page.filled = static_cast<std::int32_t>(random.next());
  if (random.one_in(30)) page.mixture_weight = any_float(random);
  if (random.one_in(30)) page.verdict = static_cast<std::int32_t>(random.below(8)) - 1;
  if (random.one_in(30)) std::memset(page.baseline + random.below(64), 'x', 1);
  if (random.one_in(30)) page.policy_version[random.below(16)] = static_cast<char>(random.next());
  page.size = sizeof page;
  const auto box = boxed(ids, random);
  std::vector<char> text(random.below(random.one_in(2) ? 1'000 : 40'000), '\x7f');
  std::size_t length = 0;
  const auto status =
      pygrade_ranker_log_rows(ranker, request, &page, reinterpret_cast<const pygrade_log_ids*>(box.data()),
                              text.empty() ? nullptr : text.data(), text.size(), &length);
  expect(status == PYGRADE_OK || status == PYGRADE_INVALID_ARGUMENT || status == PYGRADE_BUFFER_TOO_SMALL,
         "another status of a log");
  expect((status == PYGRADE_OK) == (pygrade_last_error()[0] == '\0'), "a failure without its text");
  expect((status == PYGRADE_BUFFER_TOO_SMALL) == (length > text.size()), "the length and the status differ");
  const std::size_t written = status == PYGRADE_OK ? length : 0;
  expect(written == 0 || text[written - 1] == '\n', "a log does not end with a line");
  for (std::size_t i = written; i < text.size(); ++i) expect(text[i] == '\x7f', "a log wrote behind its length");
}

// The arguments always describe existing memory (a C caller that lies cannot be protected), but are otherwise
// arbitrary.
// A batch of a request that was ranked, maybe with one damaged.
void run_batch(pygrade_ranker* ranker, const std::vector<std::byte>& request, const std::vector<std::byte>& page,
               const PageMemory& before, Random& random) {
  const std::size_t count = 1 + random.below(3), damaged = random.below(2 * count);
  std::vector<std::byte> requests, pages;
  for (std::size_t b = 0; b < count; ++b) {
    requests.insert(requests.end(), request.begin(), request.end());
    pages.insert(pages.end(), page.begin(), page.end());
  }
  if (damaged < count) {
    const std::uint64_t wrong = near(damaged, random);
    std::memcpy(&requests[damaged * request.size() + (random.one_in(2) ? 0 : offsetof(pygrade_request, tasks))], &wrong,
                sizeof wrong);
  }
  bool refused = request.size() % alignof(pygrade_request) != 0 || page.size() % alignof(pygrade_page) != 0;
  if (damaged < count)
    refused = refused ||
              std::memcmp(&requests[damaged * request.size()], request.data(), offsetof(pygrade_request, values)) != 0;
  const PageMemory kept = before;
  pygrade_batch batch{};
  batch.size = sizeof batch;
  batch.requests = reinterpret_cast<const pygrade_request*>(requests.data());
  batch.pages = reinterpret_cast<pygrade_page*>(pages.data());
  batch.count = count;
  batch.num_threads = 1;
  const auto status = pygrade_ranker_rank_batch(ranker, &batch);
  expect(status == (refused ? PYGRADE_INVALID_ARGUMENT : PYGRADE_OK), "a batch has another status than its requests");
  if (refused || (batch.requests->flags & PYGRADE_REQUEST_EXPLORE) != 0) return;
  expect(before.indices == kept.indices &&
             std::memcmp(before.values.data(), kept.values.data(), kept.values.size() * sizeof(float)) == 0,
         "a page of a batch is another one");
}

bool run_c_api(Random& random) {
  const auto made_of = [](const Artifact& artifact) {
    pygrade_ranker* made = nullptr;
    const std::string json = artifact.json(), tensors = artifact.safetensors();
    pygrade_ranker_create(json.data(), json.size(), tensors.data(), tensors.size(), nullptr, &made);
    return made;
  };
  static pygrade_ranker* const rankers[] = {made_of(Artifact{}.draw()), made_of(mixed_artifact()),
                                            made_of(corrected_artifact().draw()), nullptr};
  pygrade_ranker* ranker = rankers[random.one_in(50) ? 3 : random.below(3)];
  const std::size_t candidates = random.below(random.one_in(10) ? 100 : 12);
  const std::size_t columns = 1 + random.below(2);
  const std::size_t k = 1 + random.below(15);
  const auto real = [&] { return any_float(random); };
  const auto whole = [&] { return static_cast<std::int32_t>(random.below(5)) - 1; };
  const auto features = some<float>(2, real);
  const auto predictions = some<float>(candidates * 3, real);
  const auto boosts = some<float>(2 * candidates, real);
  const auto prices = some<float>(candidates, real), values = some<float>(3, real);
  const auto items = some<float>(2 * candidates, real);
  const auto mask = some<std::uint8_t>(candidates, [&] { return static_cast<std::uint8_t>(random.below(3)); });
  const auto groups = some<std::int32_t>(candidates * columns, whole);
  const auto caps = some<std::int32_t>(columns, whole);
  constexpr std::string_view names[] = {"search", "", "other", "\xff\0x"};
  const std::string_view scenario = names[random.below(std::size(names))];

  pygrade_request request{};
  request.context = random.one_in(10) ? nullptr : features.data();
  request.features = near(2, random);
  request.predictions = random.one_in(50) ? nullptr : predictions.data();
  request.candidates = candidates;
  request.tasks = near(3, random);
  if (request.predictions == nullptr) request.candidates = near(candidates, random);
  if (request.candidates == candidates) {
    if (random.one_in(3)) request.mask = mask.data();
    if (random.one_in(3)) request.boost_mul = boosts.data();
    if (random.one_in(3)) request.boost_add = boosts.data() + candidates;
    if (random.one_in(3)) request.groups = groups.data();
    if ((request.groups != nullptr) != random.one_in(20)) request.caps = caps.data();
    request.group_columns = random.one_in(30) ? random.below(columns + 1) : columns;
    if (!random.one_in(3)) request.item_values = prices.data();
    if (!random.one_in(3)) request.items = items.data();
    request.item_columns = random.one_in(30) ? random.below(3) : 2;
  }
  if (random.one_in(3)) request.values = values.data();
  if (random.one_in(2)) request.scenario = scenario.data();
  request.scenario_size = scenario.size();
  request.draw = random.next();
  request.flags = static_cast<std::uint32_t>(random.one_in(30) ? random.next() : random.below(4));

  PageMemory memory(k);
  pygrade_page page{};
  page.k = random.one_in(40) ? 0 : k;
  page.values = random.one_in(50) ? nullptr : memory.values.data();
  page.indices = random.one_in(50) ? nullptr : memory.indices.data();
  page.weights = random.one_in(5) ? nullptr : memory.weights.data();
  page.concentration = random.one_in(5) ? nullptr : memory.concentration.data();

  char text[64] = "";
  request.error = random.one_in(2) ? text : nullptr;
  request.error_size = random.below(sizeof text + 1);
  auto request_box = boxed(request, random);
  auto page_box = boxed(page, random);
  const auto page_before = page_box;
  const auto status = pygrade_ranker_rank(
      ranker, random.one_in(100) ? nullptr : reinterpret_cast<const pygrade_request*>(request_box.data()),
      random.one_in(100) ? nullptr : reinterpret_cast<pygrade_page*>(page_box.data()));
  if (status != PYGRADE_OK) {
    expect(status == PYGRADE_INVALID_ARGUMENT && pygrade_last_error()[0] != '\0',
           "a failure without its status or text");
    expect(text[0] == '\0' || std::strncmp(text, pygrade_last_error(), std::strlen(text)) == 0,
           "the text in the buffer is another one");
    expect(page_box == page_before && std::isnan(memory.values[0]) && memory.indices[0] == -7 &&
               std::isnan(memory.weights[0]),
           "a failed call wrote");
    return false;
  }
  expect(text[0] == '\0', "a success wrote a text");
  std::memcpy(&page, page_box.data(), std::min(page_box.size(), sizeof page));
  expect(page.filled >= 0 && page.filled <= static_cast<std::int32_t>(std::min(k, candidates)),
         "filled is out of range");
  for (std::size_t i = 0; i < k; ++i) {
    const std::int32_t index = memory.indices[i];
    const bool on_page = i < static_cast<std::size_t>(page.filled);
    expect(on_page ? index >= 0 && index < static_cast<std::int32_t>(candidates) : index == -1,
           "an index is out of range");
    expect(!on_page || request.mask == nullptr || mask[static_cast<std::size_t>(index)] != 0, "a masked item is shown");
  }
  run_log(ranker, reinterpret_cast<const pygrade_request*>(request_box.data()), page, candidates, random);
  run_batch(ranker, request_box, page_before, memory, random);
  return true;
}

// ---- requests to the service: a reason with every refusal, and never a fault of the server

void check_answer(const Response& response) {
  const detail::Json answer = json_of(response);
  if (response.status == 200) return;
  expect(response.status == 400 || response.status == 405 || response.status == 413, "a request was a server's fault");
  expect(!answer.object_at("error").string_at("message").empty(), "a refusal without a reason");
}

bool run_service(Random& random) {
  static const ServiceRun run;
  static const auto service = run.serve(
      R"({"max_body_bytes": 4096, "max_explore": 1, "shadow": [{"name": "s", "allow_identical": true}],
          "arms": [{"name": "a", "share": 0.5, "explore": 0.5}, {"name": "b", "share": 0.5, "allow_identical": true}]})");
  struct Known {
    const char *path, *body;
  };
  constexpr Known known[] = {
      {"/v1/rank", R"({"user": 3, "k": 5, "candidates": 20, "scenario": "feed", "timestamp": 1700000000000,)"
                   R"( "explore": true, "request_id": "r\u00e9", "seen": [1, 2], "arm": "b", "deadline_ms": 1e3})"},
      {"/v1/rank", R"({"user": -4, "k": 3, "items": [5, 6, 7, 8], "item_values": [1, 2.5, 0, 1e3], "context": {}})"},
      {"/v1/rank",
       R"({"user": "5", "eligible": [4, 5, 6], "values": {"click": 1.5, "order": 0}, "context": {"c": null}})"},
      {"/v1/explain", R"({"user": 3, "k": 2, "candidates": 10, "scenario": "search", "explore": true})"},
      {"/v1/update",
       R"({"events": [{"user": 3, "item": 7, "task": "click", "timestamp": 1700000000000, "amount": 2.5,)"
       R"( "request_id": "r", "event_id": "e", "scenario": "feed"}, {"user": 3, "item": 8, "task": null}]})"}};
  const Known& chosen = known[random.below(std::size(known))];
  std::string body = chosen.body;
  if (!random.one_in(10)) mutate(body, random);
  const Response response = service->handle({random.one_in(50) ? "PUT" : "POST", chosen.path, body});
  check_answer(response);
  return response.status == 200;
}

// Requests to a policy's run, in JSON and in tensors.
bool run_service_policy(Random& random) {
  static const PolicyRun run([] {
    Artifact artifact = corrected_artifact("1");
    artifact.correction->items = {"stock", "brand=a"};
    return artifact.draw();
  }());
  static const auto service = run.serve(R"({"max_body_bytes": 4096, "max_explore": 1, "max_batch": 3, "max_ids": 20,
                                            "max_candidates": 8, "explore": {"shuffle": 0.5, "weights": 0.5}})");
  constexpr const char* lists =
      R"("items": [5, "b", 7], "predictions": {"click": [0.5, null, 0.1], "cart": [1e-3, 2.5e-2, 0],)"
      R"( "order": [0.12345678, 0, 1], "x": []}, "item_values": [1, 2, 3])";
  static const std::string known[] = {
      R"({"user": "\u00e9", "k": 2, "context": {"hour": 3, "intent": null}, )" + std::string(lists) + "}",
      R"({"user": 4, "rules": {"mask": [true, false, true], "boost_mul": [1, 2, 3], "boost_add": [0, 0, 1], "demote": [5],)"
      R"( "groups": {"g": [1, null, 1]}, "caps": {"g": 1}, "pins": [{"item": 7, "position": 0}]}, )" +
          std::string(lists) + "}",
      R"({"requests": [{"user": 4, "item_features": {"stock": [1, 2, null], "brand": ["a", "b", null]}, )" +
          std::string(lists) + R"(}, {"user": 1}]})",
      R"({"user": 1, "values": {"click": 2}, "scenario": "search", "explore": true, )" + std::string(lists) + "}"};
  std::string body = known[random.below(std::size(known))];
  const bool is_tensors = random.one_in(3);
  if (is_tensors) {
    const std::string header =
        R"({"__metadata__":{"request":"{\"user\": 3, \"k\": 2}","tasks":"[\"click\", \"order\", \"cart\"]"},)"
        R"("items":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},)"
        R"("predictions":{"dtype":"F32","shape":[2,3],"data_offsets":[16,40]},)"
        R"("item_values":{"dtype":"F32","shape":[2],"data_offsets":[40,48]},)"
        R"("mask":{"dtype":"BOOL","shape":[2],"data_offsets":[48,50]}})";
    std::string data(50, '\0');
    for (char& byte : data) byte = static_cast<char>(random.below(64));
    data[7] = data[15] = '\0';
    body = Artifact::frame(header) + data;
  }
  if (!random.one_in(10)) mutate(body, random);
  const Response response = service->handle(
      {.method = "POST",
       .path = random.one_in(4) ? "/v1/weights" : "/v1/rank",
       .body = body,
       .content_type = is_tensors != random.one_in(50) ? "application/safetensors" : "application/json"});
  check_answer(response);
  return response.status == 200;
}

struct Target {
  const char* name;
  bool (*run)(Random&);
  std::uint64_t runs = 0, accepted = 0;
};
Target targets[] = {
    {"json", &run_json},       {"safetensors", &run_safetensors},  {"policy", &run_policy},   {"mtl", &run_mtl},
    {"prerank", &run_prerank}, {"features", &run_features},        {"records", &run_records}, {"C ABI", &run_c_api},
    {"service", &run_service}, {"own models", &run_service_policy}};
}  // namespace

#ifdef PYGRADE_LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  Random random(data[0], rest, data[0] % 2 == 1);
  targets[data[0] / 2 % std::size(targets)].run(random);
  return 0;
}
#else
int main(int argc, char** argv) {
  const std::uint64_t runs = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 100'000;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  for (std::uint64_t i = 0; i < runs; ++i) {
    Random random(seed << 32 ^ i);
    Target& target = targets[i % std::size(targets)];
    try {
      target.accepted += target.run(random);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "fuzz: run %llu of seed %llu (%s): %s\n", static_cast<unsigned long long>(i),
                   static_cast<unsigned long long>(seed), target.name, error.what());
      return 1;
    }
    ++target.runs;
  }
  bool reached = true;
  for (const Target& target : targets) {
    std::printf("%-12s %8llu runs, %8llu accepted\n", target.name, static_cast<unsigned long long>(target.runs),
                static_cast<unsigned long long>(target.accepted));
    reached = reached && (target.runs < 1000 || (target.accepted > 0 && target.accepted < target.runs));
  }
  return reached ? 0 : 1;
}
#endif
