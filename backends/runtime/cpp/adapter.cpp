#include "adapter.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "adapter_header.h"
#include "errors.h"
#include "file_descriptor.h"
#include "float16.h"
#include "hashes.h"
#include "json.h"

namespace cospipe {

namespace {

constexpr const char* kHeaderKey = "cospipe.adapter";
constexpr uint64_t kMostAdapterBytes = uint64_t{1} << 30;
constexpr const char* kRecompile = "compile the model with --passes 'insert-adapters{...},merge-adapters{at=load}'";

// An array of an adapter file, or of a bundle's weights.
struct Array {
  TensorSpec spec;
  Data data;

  uint64_t count() const { return data.bytes / element_bytes(spec.type); }
};

// ---- Numbers ----

template <typename Number>
Number number_at(const Data& data, uint64_t index) {
  Number number;
  std::memcpy(&number, static_cast<const char*>(data.begin) + index * sizeof(Number), sizeof(Number));
  return number;
}

template <typename Number>
void put(const Buffer& room, uint64_t index, Number number) {
  std::memcpy(static_cast<char*>(room.begin()) + index * sizeof(Number), &number, sizeof(Number));
}

bool is_float(ElementType type) {
  return type == ElementType::kFloat64 || type == ElementType::kFloat32 || type == ElementType::kFloat16;
}

bool is_signed_integer(ElementType type) {
  return type == ElementType::kInt64 || type == ElementType::kInt32 || type == ElementType::kInt16 ||
         type == ElementType::kInt8;
}

// A number of an array of floating point numbers.
double real_at(const Array& array, uint64_t index) {
  switch (array.spec.type) {
    case ElementType::kFloat64: return number_at<double>(array.data, index);
    case ElementType::kFloat32: return number_at<float>(array.data, index);
    case ElementType::kFloat16: return number_of_float16(number_at<uint16_t>(array.data, index));
    default: throw Error(array.spec.text() + " holds no floating point numbers.");
  }
}

void put_real(const Buffer& room, ElementType type, uint64_t index, double number) {
  switch (type) {
    case ElementType::kFloat64: return put(room, index, number);
    case ElementType::kFloat32: return put(room, index, static_cast<float>(number));
    case ElementType::kFloat16: return put(room, index, float16_of_number(number));
    default: throw Error(std::string("Coefficients cannot be stored as ") + name_of(type) + ".");
  }
}

// A number of an array of signed integers.
int64_t integer_at(const Array& array, uint64_t index) {
  switch (array.spec.type) {
    case ElementType::kInt64: return number_at<int64_t>(array.data, index);
    case ElementType::kInt32: return number_at<int32_t>(array.data, index);
    case ElementType::kInt16: return number_at<int16_t>(array.data, index);
    case ElementType::kInt8: return number_at<int8_t>(array.data, index);
    default: throw Error(array.spec.text() + " holds no places.");
  }
}

void put_place(const Buffer& room, ElementType type, uint64_t index, int64_t place) {
  if (type == ElementType::kInt64) return put(room, index, place);
  if (type == ElementType::kInt32) return put(room, index, static_cast<int32_t>(place));
  throw Error(std::string("Places cannot be stored as ") + name_of(type) + ".");
}

// The largest number in magnitude that an element type has.
double most(ElementType type) {
  if (type == ElementType::kFloat16) return 65519;  // what is larger rounds to infinity
  if (type == ElementType::kFloat32) return std::numeric_limits<float>::max();
  return std::numeric_limits<double>::max();
}

int64_t element_count(const std::vector<int64_t>& shape) {
  int64_t count = 1;  // whoever read the shape checked that this fits
  for (int64_t extent : shape) count *= extent;
  return count;
}

// A coefficient as it is used: times the adapter's scale, in FP32.
float scaled(const Array& coefficients, uint64_t index, double alpha) {
  const auto scale = static_cast<float>(alpha);
  if (coefficients.spec.type != ElementType::kFloat64) return static_cast<float>(real_at(coefficients, index)) * scale;
  return static_cast<float>(number_at<double>(coefficients.data, index) * scale);
}

// ---- The file ----

Buffer read_whole(const std::string& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (!file.is_open() && errno == ENOENT) throw UsageError("There is no adapter file '" + path + "'.");
  if (!file.is_open() || ::fstat(file.get(), &status) != 0) {
    throw Error(path + " cannot be read: " + std::strerror(errno) + ".");
  }
  if (!S_ISREG(status.st_mode)) throw UsageError(path + " is not an adapter file.");
  const auto bytes = static_cast<uint64_t>(status.st_size);
  if (bytes > kMostAdapterBytes) {
    throw Error(path + " has " + std::to_string(bytes) + " bytes, too many for an adapter.");
  }
  Buffer buffer(bytes);
  for (uint64_t filled = 0; filled < bytes;) {
    const ssize_t got = ::read(file.get(), static_cast<char*>(buffer.begin()) + filled, bytes - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw Error(path + " cannot be read whole.");
    filled += static_cast<uint64_t>(got);
  }
  return buffer;
}

// An adapter as it lies in a file.
struct StoredAdapter {
  AdapterHeader header;
  std::map<std::string, Array> arrays;  // "coefficients.NAME", "places.NAME", "trained.NAME"

  const Array& coefficients(const std::string& weight) const { return arrays.at("coefficients." + weight); }
  const Array& places(const std::string& weight) const { return arrays.at("places." + weight); }
};

void check_array(const StoredAdapter& adapter, const std::string& name, const std::vector<int64_t>& shape,
                 bool (*is_kind)(ElementType), Mistakes& mistakes) {
  const auto found = adapter.arrays.find(name);
  if (found == adapter.arrays.end()) return mistakes.add(name, "missing");
  const TensorSpec& spec = found->second.spec;
  if (spec.shape == shape && is_kind(spec.type)) return;
  mistakes.add(name, std::string(name_of(spec.type)) + " of shape " + shape_text(spec.shape) + ", its header says " +
                         shape_text(shape));
}

void check_arrays(const StoredAdapter& adapter, Mistakes& mistakes) {
  std::set<std::string> known;
  for (const auto& [name, weight] : adapter.header.weights) {
    known.insert({"coefficients." + name, "places." + name});
    check_array(adapter, "coefficients." + name, {weight.n}, is_float, mistakes);
    check_array(adapter, "places." + name, {weight.n}, is_signed_integer, mistakes);
    if (weight.n <= element_count(weight.shape)) continue;
    mistakes.add(name, std::to_string(weight.n) + " coefficients, but only " +
                           std::to_string(element_count(weight.shape)) + " elements");
  }
  for (const auto& [name, shape] : adapter.header.trained) {
    known.insert("trained." + name);
    check_array(adapter, "trained." + name, shape, is_float, mistakes);
  }
  for (const auto& [name, array] : adapter.arrays) {
    if (known.count(name) == 0) mistakes.add(name, "is not named in its header");
  }
}

bool are_finite(const Array& array, double alpha) {
  for (uint64_t i = 0; i < array.count(); ++i) {
    const bool is_finite = std::isfinite(static_cast<float>(real_at(array, i)) * static_cast<float>(alpha));
    if (!is_finite) return false;
  }
  return true;
}

void check_places(const std::string& name, const Array& places, int64_t elements, Mistakes& mistakes) {
  std::vector<int64_t> sorted;
  for (uint64_t i = 0; i < places.count(); ++i) sorted.push_back(integer_at(places, i));
  std::sort(sorted.begin(), sorted.end());
  if (sorted.front() < 0 || sorted.back() >= elements) {
    return mistakes.add("places of " + name, "outside of its " + std::to_string(elements) + " elements");
  }
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
    mistakes.add("places of " + name, "one is named twice");
  }
}

void check_numbers(const StoredAdapter& adapter, Mistakes& mistakes) {
  for (const auto& [name, weight] : adapter.header.weights) {
    if (!are_finite(adapter.coefficients(name), weight.alpha)) {
      mistakes.add("coefficients of " + name, "infinite or undefined numbers");
    }
    check_places(name, adapter.places(name), element_count(weight.shape), mistakes);
  }
  for (const auto& [name, shape] : adapter.header.trained) {
    if (!are_finite(adapter.arrays.at("trained." + name), 1)) mistakes.add(name, "infinite or undefined numbers");
  }
}

// Reads an adapter and checks that it is whole and makes sense. It lies in memory: the file may be overwritten.
StoredAdapter read_adapter(const std::string& path) {
  const Buffer file = read_whole(path);
  const TensorHeader tensors = read_tensor_header({static_cast<const char*>(file.begin()), file.bytes()}, path);
  const auto text = tensors.metadata.find(kHeaderKey);
  if (text == tensors.metadata.end()) {
    throw Error(path + " is a safetensors file, but no adapter of cospipe: its header does not say so.");
  }
  StoredAdapter adapter{parse_adapter_header(text->second, path), {}};
  for (const auto& [name, entry] : tensors.entries) {
    const char* begin = static_cast<const char*>(file.begin()) + entry.offset_bytes;
    adapter.arrays[name] = {entry.spec, {file.data().owner, begin, entry.spec.bytes()}};
  }
  Mistakes mistakes;
  check_arrays(adapter, mistakes);
  if (mistakes.empty()) check_numbers(adapter, mistakes);
  mistakes.raise(path + " contradicts itself and is not used");
  return adapter;
}

// ---- Adapter and bundle together ----

const TensorSpec& stored(const TensorFile& file, const std::string& name) {
  const auto found = file.header().entries.find(name);
  if (found == file.header().entries.end()) throw Error("The bundle's weights do not hold " + name + ".");
  return found->second.spec;
}

// The first half of the SHA-256 of a weight's shape and of its values in FP32.
std::string fingerprint(const Array& weight) {
  std::string shape;
  for (int64_t extent : weight.spec.shape) shape += (shape.empty() ? "" : ",") + std::to_string(extent);
  Sha256 digest;
  digest.update(shape.data(), shape.size());
  if (weight.spec.type == ElementType::kFloat32) {
    digest.update(weight.data.begin, weight.data.bytes);
  } else {
    std::vector<float> values;
    for (uint64_t i = 0; i < weight.count(); ++i) values.push_back(static_cast<float>(real_at(weight, i)));
    digest.update(values.data(), values.size() * sizeof(float));
  }
  return digest.hexadecimal().substr(0, 32);
}

// Whether an adapter on a slot can be stored in this bundle at all.
bool has_room(const AdapterSlot& slot, const TensorFile& file) {
  const TensorSpec &coefficients = stored(file, slot.coefficients), &places = stored(file, slot.places);
  const bool are_types_known = is_float(stored(file, slot.weight).type) && is_float(coefficients.type) &&
                               (places.type == ElementType::kInt32 || places.type == ElementType::kInt64);
  return are_types_known && element_count(coefficients.shape) == element_count(places.shape);
}

bool are_places_storable(const AdaptedWeight& adapted, ElementType type) {
  return type == ElementType::kInt64 || element_count(adapted.shape) - 1 <= std::numeric_limits<int32_t>::max();
}

// What keeps an adapter from a slot; empty when nothing does.
std::string slot_problem(const AdapterSlot& slot, const AdaptedWeight& adapted, const TensorFile& file,
                         BaseFingerprints& fingerprints) {
  const TensorSpec& weight = stored(file, slot.weight);
  const int64_t room = element_count(stored(file, slot.coefficients).shape);
  if (weight.shape != adapted.shape) {
    return "is " + shape_text(weight.shape) + " in the bundle, " + shape_text(adapted.shape) + " in the adapter";
  }
  if (adapted.n > room) {
    return "has " + std::to_string(adapted.n) + " coefficients, the bundle has room for " + std::to_string(room) +
           "; " + kRecompile;
  }
  if (!are_places_storable(adapted, stored(file, slot.places).type)) {
    return "has more elements than its places can name";
  }
  if (fingerprints.of(file, slot.weight) != adapted.fingerprint) {
    return "has other values than the one the adapter was trained on: it is another base";
  }
  return "";
}

void check_known(const StoredAdapter& adapter, const Manifest& manifest, Mistakes& mistakes) {
  std::set<std::string> slots, replaceable;
  for (const Stage& stage : manifest.stages) {
    for (const AdapterSlot& slot : stage.adapter_slots) slots.insert(slot.weight);
    replaceable.insert(stage.replaceable.begin(), stage.replaceable.end());
  }
  for (const auto& [name, weight] : adapter.header.weights) {
    if (slots.count(name) > 0) continue;
    mistakes.add(name, std::string("the bundle has no room for an adapter on it; ") + kRecompile);
  }
  for (const auto& [name, shape] : adapter.header.trained) {
    if (replaceable.count(name) > 0) continue;
    mistakes.add(name, "was trained whole, but is not stored as it is in this bundle (it is folded into another "
                       "weight, or there is none of that name)");
  }
}

void check_slot(const StoredAdapter& adapter, const AdapterSlot& slot, const TensorFile& file,
                BaseFingerprints& fingerprints, Mistakes& mistakes) {
  if (!has_room(slot, file)) return mistakes.add(slot.weight, "its room for adapters in the bundle contradicts itself");
  const auto adapted = adapter.header.weights.find(slot.weight);
  if (adapted == adapter.header.weights.end()) return;
  const std::string problem = slot_problem(slot, adapted->second, file, fingerprints);
  if (!problem.empty()) return mistakes.add(slot.weight, problem);
  const Array& coefficients = adapter.coefficients(slot.weight);
  const ElementType type = stored(file, slot.coefficients).type;
  for (uint64_t i = 0; i < coefficients.count(); ++i) {
    if (std::fabs(scaled(coefficients, i, adapted->second.alpha)) <= most(type)) continue;
    return mistakes.add(slot.weight, std::string("a coefficient is too large for ") + name_of(type));
  }
}

void check_trained(const StoredAdapter& adapter, const std::string& name, const TensorFile& file, Mistakes& mistakes) {
  const auto trained = adapter.arrays.find("trained." + name);
  if (trained == adapter.arrays.end()) return;
  const TensorSpec& weight = stored(file, name);
  const Array& array = trained->second;
  if (array.spec.shape != weight.shape) {
    return mistakes.add(name, "is " + shape_text(weight.shape) + " in the bundle, " + shape_text(array.spec.shape) +
                                  " in the adapter");
  }
  if (!is_float(weight.type)) return mistakes.add(name, std::string("is ") + name_of(weight.type) + " in the bundle");
  for (uint64_t i = 0; i < array.count(); ++i) {
    if (std::fabs(real_at(array, i)) <= most(weight.type)) continue;
    return mistakes.add(name, std::string("a number is too large for ") + name_of(weight.type));
  }
}

Buffer zeros(const TensorSpec& spec) {
  Buffer room(spec.bytes());
  if (spec.bytes() > 0) std::memset(room.begin(), 0, spec.bytes());
  return room;
}

void override_slot(const StoredAdapter& adapter, const AdapterSlot& slot, const TensorFile& file,
                   Overrides& overrides) {
  const TensorSpec &coefficients = stored(file, slot.coefficients), &places = stored(file, slot.places);
  const Buffer coefficient_room = zeros(coefficients), place_room = zeros(places);
  const auto adapted = adapter.header.weights.find(slot.weight);
  const int64_t n = adapted == adapter.header.weights.end() ? 0 : adapted->second.n;
  for (int64_t i = 0; i < n; ++i) {
    const auto index = static_cast<uint64_t>(i);
    const float coefficient = scaled(adapter.coefficients(slot.weight), index, adapted->second.alpha);
    put_real(coefficient_room, coefficients.type, index, coefficient);
    put_place(place_room, places.type, index, integer_at(adapter.places(slot.weight), index));
  }
  overrides[slot.coefficients] = coefficient_room.data();
  overrides[slot.places] = place_room.data();
}

void override_trained(const StoredAdapter& adapter, const std::string& name, const TensorFile& file,
                      Overrides& overrides) {
  const auto trained = adapter.arrays.find("trained." + name);
  if (trained == adapter.arrays.end()) return;
  const TensorSpec& weight = stored(file, name);
  const Buffer room(weight.bytes());
  for (uint64_t i = 0; i < trained->second.count(); ++i) put_real(room, weight.type, i, real_at(trained->second, i));
  overrides[name] = room.data();
}

Overrides stage_overrides(const StoredAdapter& adapter, const Stage& stage, const TensorFile& file) {
  Overrides overrides;
  for (const std::string& name : stage.replaceable) override_trained(adapter, name, file, overrides);
  for (const AdapterSlot& slot : stage.adapter_slots) override_slot(adapter, slot, file, overrides);
  return overrides;
}

}  // namespace

const std::string& BaseFingerprints::of(const TensorFile& file, const std::string& weight) {
  std::string& known = known_[{&file, weight}];
  if (known.empty()) known = fingerprint({stored(file, weight), file.tensor(weight)});
  return known;
}

bool names_adapter(const std::string& text) { return !text.empty() && text != "none"; }

std::vector<Overrides> adapter_overrides(const Manifest& manifest,
                                         const std::vector<std::shared_ptr<const TensorFile>>& files,
                                         const std::string& adapter_path, BaseFingerprints* fingerprints) {
  BaseFingerprints own;
  BaseFingerprints& known = fingerprints != nullptr ? *fingerprints : own;
  const StoredAdapter adapter = read_adapter(adapter_path);
  Mistakes mistakes;
  check_known(adapter, manifest, mistakes);
  for (size_t i = 0; i < manifest.stages.size(); ++i) {
    for (const AdapterSlot& slot : manifest.stages[i].adapter_slots)
      check_slot(adapter, slot, *files[i], known, mistakes);
    for (const std::string& name : manifest.stages[i].replaceable) check_trained(adapter, name, *files[i], mistakes);
  }
  mistakes.raise(adapter_path + " does not fit this bundle");
  std::vector<Overrides> overrides;
  for (size_t i = 0; i < manifest.stages.size(); ++i) {
    overrides.push_back(stage_overrides(adapter, manifest.stages[i], *files[i]));
  }
  return overrides;
}

}  // namespace cospipe
