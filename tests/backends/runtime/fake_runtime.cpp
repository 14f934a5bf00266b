// A stand-in for libtvm_ffi.so, for tests of cospipe-run: as much of tvm_ffi's C interface as the runner uses. Compiled
// with FAKE_POOL it is libtvm_runtime.so instead, which brings runtime.config_threadpool.
//
// It is built with the runner's sanitizers, which the real libraries are not, and counts references honestly: what the
// runner forgets is a leak, what it gives back too early is a use after free. It is strict where the real one is silent
// or merely slow: main needs a pool of its own thread, a virtual machine is called by one thread at a time.
//
// A "library" is a text file that says what main computes: each output is scale * input + shift + the sum of all
// elements of all weights, element by element in double precision; an input with fewer elements is repeated.
//
//   cospipe fake stage
//   inputs COUNT                                         tensors that main takes before the weights
//   weights COUNT                                        and how many weights
//   output INPUT SCALE SHIFT TYPE DIMENSIONS EXTENT...   a line for each result
//   prepare NAME SCALE TYPE DIMENSIONS EXTENT...         a function: scale * first weight + sum of the others' elements
//   shares_by_speed                                      main fails unless share_by_speed was called
//   sleep_us TIME                                        how long each call takes at least
//   log FILE                                             a line for each call: first number of its first input, cores
//   when value NUMBER FAULT                              a fault when the first input begins with this number,
//   when call NUMBER FAULT                               or at this call; they count from 0, warming up does not count
//
// Faults: throw MESSAGE; bad_alloc; nan; shape; type; count (a result too few); stall_us TIME; stall_until FILE;
// live_objects FILE (no fault: writes how many objects exist).
//
// Where FAKE_THREADS_NEVER_END is set, a thread that has a pool does not get past its end.
#include <sched.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include <tvm/ffi/c_api.h>

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void fake_runtime_set_pool(int (*configure)(int64_t mode, int64_t threads, const char* const* ids, size_t count));

#ifdef FAKE_POOL

namespace {

constexpr int64_t kOneCoreAThread = -2;
constexpr int64_t kThreadsShareCores = -3;

// Like TVM's pool, leaves the calling thread free to run on all cores of the pool.
int configure(int64_t mode, int64_t threads, const char* const* ids, size_t count) {
  const bool fits = (mode == kOneCoreAThread && static_cast<size_t>(threads) == count) || mode == kThreadsShareCores;
  if (!fits || threads < 1 || count < 1) return -1;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  for (size_t i = 0; i < count; ++i) CPU_SET(std::atoi(ids[i]), &cores);
  return sched_setaffinity(0, sizeof(cores), &cores);
}

__attribute__((constructor)) void register_pool() { fake_runtime_set_pool(configure); }

}  // namespace

#else

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr uint64_t kOneStrong = 1;
constexpr uint64_t kOneWeak = uint64_t{1} << 32;
constexpr uint64_t kStrongMask = kOneWeak - 1;
constexpr size_t kAlignmentBytes = 64;

std::atomic<int64_t> live_objects{0};
int (*configure_pool)(int64_t, int64_t, const char* const*, size_t) = nullptr;
thread_local bool thread_has_pool = false;

// Objects begin with TVM's header; what follows it is fixed by the C interface for tensors and errors.
struct Object : TVMFFIObject {
  template <typename Derived>
  void begin(int32_t type) {
    combined_ref_count = kOneStrong | kOneWeak;
    type_index = type;
    deleter = [](void* self, int) { delete static_cast<Derived*>(self); };
    ++live_objects;
  }
  Object() : TVMFFIObject{} {}
  ~Object() { --live_objects; }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
};

void take_reference(TVMFFIObject* object) {
  __atomic_fetch_add(&object->combined_ref_count, kOneStrong, __ATOMIC_RELAXED);
}

void drop_reference(TVMFFIObject* object) {
  const uint64_t before = __atomic_fetch_sub(&object->combined_ref_count, kOneStrong, __ATOMIC_ACQ_REL);
  if ((before & kStrongMask) == 1) object->deleter(object, kTVMFFIObjectDeleterFlagBitMaskBoth);
}

// A counted reference.
template <typename Kind>
class Reference {
 public:
  Reference() = default;
  explicit Reference(Kind* fresh) : object_(fresh) {}
  Reference(const Reference& other) : object_(other.object_) {
    if (object_ != nullptr) take_reference(object_);
  }
  Reference(Reference&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Reference& operator=(Reference other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Reference() {
    if (object_ != nullptr) drop_reference(object_);
  }

  static Reference to(TVMFFIObject* object) {
    take_reference(object);
    return Reference(static_cast<Kind*>(object));
  }
  Kind* operator->() const { return object_; }
  Kind& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }
  Kind* give_up() { return std::exchange(object_, nullptr); }

 private:
  Kind* object_ = nullptr;
};

struct ErrorObject : Object {
  TVMFFIErrorCell cell{};
  std::string kind, message;

  ErrorObject(std::string its_kind, std::string its_message)
      : kind(std::move(its_kind)), message(std::move(its_message)) {
    begin<ErrorObject>(kTVMFFIError);
    cell.kind = {kind.data(), kind.size()};
    cell.message = {message.data(), message.size()};
  }
};

thread_local ErrorObject* raised = nullptr;

int raise(const char* kind, const std::string& message) {
  if (raised != nullptr) drop_reference(raised);
  raised = new ErrorObject(kind, message);
  return -1;
}

using Shape = std::vector<int64_t>;

int64_t elements(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

struct TensorObject : Object {
  DLTensor tensor{};
  Shape shape;
  std::unique_ptr<void, decltype(&std::free)> own{nullptr, &std::free};
  DLManagedTensor* shared = nullptr;

  TensorObject(DLDataType type, Shape its_shape) : shape(std::move(its_shape)) {
    begin<TensorObject>(kTVMFFITensor);
    const size_t bytes = static_cast<size_t>(elements(shape)) * (type.bits / 8);
    own.reset(std::aligned_alloc(kAlignmentBytes, (bytes + kAlignmentBytes) / kAlignmentBytes * kAlignmentBytes));
    if (own == nullptr) throw std::bad_alloc();
    tensor = {own.get(), {kDLCPU, 0}, static_cast<int32_t>(shape.size()), type, shape.data(), nullptr, 0};
  }
  explicit TensorObject(DLManagedTensor* from) : shared(from) {
    begin<TensorObject>(kTVMFFITensor);
    tensor = from->dl_tensor;
    shape.assign(tensor.shape, tensor.shape + tensor.ndim);
    tensor.shape = shape.data();
  }
  ~TensorObject() {
    if (shared != nullptr && shared->deleter != nullptr) shared->deleter(shared);
  }

  int64_t size() const { return elements(shape); }
  const char* data() const { return static_cast<const char*>(tensor.data) + tensor.byte_offset; }
};

struct StringObject : Object {
  TVMFFIByteArray cell{};
  std::string text;

  explicit StringObject(std::string its_text) : text(std::move(its_text)) {
    begin<StringObject>(kTVMFFIStr);
    cell = {text.data(), text.size()};
  }
};

struct ArrayObject : Object {
  std::vector<Reference<TVMFFIObject>> items;

  ArrayObject() { begin<ArrayObject>(kTVMFFIArray); }
};

using Arguments = std::vector<TVMFFIAny>;
using Body = std::function<TVMFFIAny(const Arguments&)>;

struct FunctionObject : Object {
  TVMFFIFunctionCell cell{};
  Body body;

  explicit FunctionObject(Body its_body) : body(std::move(its_body)) { begin<FunctionObject>(kTVMFFIFunction); }
};

// A library, or a virtual machine that it made.
struct ModuleObject : Object {
  std::map<std::string, Body> functions;

  ModuleObject() { begin<ModuleObject>(kTVMFFIModule); }
};

TVMFFIAny nothing() { return TVMFFIAny{}; }

TVMFFIAny integer(int64_t value) {
  TVMFFIAny any{};
  any.type_index = kTVMFFIInt;
  any.v_int64 = value;
  return any;
}

template <typename Kind>
TVMFFIAny handed_over(Reference<Kind> object) {
  TVMFFIAny any{};
  any.type_index = object->type_index;
  any.v_obj = object.give_up();
  return any;
}

void expect(bool holds, const std::string& message) {
  if (!holds) throw std::runtime_error(message);
}

template <typename Kind>
Kind& object_of(const Arguments& arguments, size_t position, int32_t type) {
  expect(position < arguments.size() && arguments[position].type_index == type, "an argument is of another type");
  return static_cast<Kind&>(*arguments[position].v_obj);
}

int64_t integer_of(const Arguments& arguments, size_t position) {
  const bool fits = position < arguments.size() && (arguments[position].type_index == kTVMFFIInt ||
                                                    arguments[position].type_index == kTVMFFIBool);
  expect(fits, "an argument is no integer");
  return arguments[position].v_int64;
}

std::string text_of(const Arguments& arguments, size_t position) {
  expect(position < arguments.size() && arguments[position].type_index == kTVMFFIRawStr, "an argument is no text");
  return arguments[position].v_c_str;
}

// Numbers of a tensor as double and back; the same as numpy's astype.
struct NumberType {
  DLDataType type;
  double (*read)(const char* from);
  void (*write)(double value, char* to);
};

template <typename Number>
double read_number(const char* from) {
  Number number;
  std::memcpy(&number, from, sizeof(number));
  return static_cast<double>(number);
}

template <typename Number>
void write_number(double value, char* to) {
  const auto number = static_cast<Number>(value);
  std::memcpy(to, &number, sizeof(number));
}

template <typename Number>
NumberType number_type(uint8_t code) {
  return {{code, 8 * sizeof(Number), 1}, read_number<Number>, write_number<Number>};
}

const std::map<std::string, NumberType>& number_types() {
  static const std::map<std::string, NumberType> types = {
      {"float64", number_type<double>(kDLFloat)},  {"float32", number_type<float>(kDLFloat)},
      {"float16", number_type<_Float16>(kDLFloat)}, {"int64", number_type<int64_t>(kDLInt)},
      {"int32", number_type<int32_t>(kDLInt)},     {"int16", number_type<int16_t>(kDLInt)},
      {"int8", number_type<int8_t>(kDLInt)},       {"uint8", number_type<uint8_t>(kDLUInt)},
      {"bool", number_type<bool>(kDLBool)},
  };
  return types;
}

const NumberType& number_type_of(const DLDataType& type) {
  for (const auto& [name, known] : number_types())
    if (known.type.code == type.code && known.type.bits == type.bits) return known;
  throw std::runtime_error("a tensor has an unknown type");
}

double element(const TensorObject& tensor, int64_t position) {
  if (tensor.size() == 0) return 0;
  const NumberType& type = number_type_of(tensor.tensor.dtype);
  return type.read(tensor.data() + position % tensor.size() * (type.type.bits / 8));
}

double sum(const TensorObject& tensor) {
  double total = 0;
  for (int64_t i = 0; i < tensor.size(); ++i) total += element(tensor, i);
  return total;
}

// What a result, or a prepared weight, is computed with.
struct Formula {
  size_t input = 0;
  double scale = 1, shift = 0;
  NumberType type{};
  Shape shape;

  Reference<TensorObject> apply(const TensorObject& from, double further) const {
    Reference<TensorObject> result(new TensorObject(type.type, shape));
    auto* to = static_cast<char*>(result->tensor.data);
    for (int64_t i = 0; i < result->size(); ++i, to += type.type.bits / 8)
      type.write(scale * element(from, i) + shift + further, to);
    return result;
  }
};

struct Fault {
  bool at_call = false;
  double number = 0;
  std::string kind, detail;
};

struct Description {
  size_t inputs = 0, weights = 0;
  std::vector<Formula> outputs;
  std::map<std::string, Formula> prepared;
  bool shares_by_speed = false;
  int64_t sleep_us = 0;
  std::string log;
  std::vector<Fault> faults;
};

// What a library's machines have in common.
struct Library {
  Description description;
  std::atomic<bool> shares{false};
  std::atomic<int64_t> calls{0};
};

void read_form(std::istream& words, Formula& formula) {
  std::string type;
  size_t dimensions = 0;
  words >> type >> dimensions;
  formula.type = number_types().at(type);
  formula.shape.resize(dimensions);
  for (int64_t& extent : formula.shape) words >> extent;
}

std::string rest_of(std::istream& words) {
  std::string text;
  std::getline(words >> std::ws, text);
  return text;
}

void read_line(const std::string& line, Description& description) {
  std::istringstream words(line);
  std::string what;
  words >> what;
  if (what == "inputs") words >> description.inputs;
  if (what == "weights") words >> description.weights;
  if (what == "shares_by_speed") description.shares_by_speed = true;
  if (what == "sleep_us") words >> description.sleep_us;
  if (what == "log") description.log = rest_of(words);
  if (what == "output") {
    Formula formula;
    words >> formula.input >> formula.scale >> formula.shift;
    read_form(words, formula);
    description.outputs.push_back(formula);
  }
  if (what == "prepare") {
    std::string name;
    Formula formula;
    words >> name >> formula.scale;
    read_form(words, formula);
    description.prepared[name] = formula;
  }
  if (what == "when") {
    Fault fault;
    std::string by;
    words >> by >> fault.number >> fault.kind;
    fault.at_call = by == "call";
    fault.detail = rest_of(words);
    description.faults.push_back(fault);
  }
  expect(!words.fail() || words.eof(), "cannot read the line: " + line);
}

Description read_description(const std::string& path) {
  expect(!path.empty() && path.front() == '/', path + " is no absolute path");
  std::ifstream file(path);
  std::string line;
  expect(std::getline(file, line) && line == "cospipe fake stage", path + ": file in wrong format");
  Description description;
  while (std::getline(file, line)) read_line(line, description);
  return description;
}

std::string cores_of_thread() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  sched_getaffinity(0, sizeof(cores), &cores);
  std::string text;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &cores)) text += (text.empty() ? "" : ",") + std::to_string(cpu);
  return text;
}

void write_log(const std::string& file, double first) {
  std::ostringstream line;
  line << first << " " << cores_of_thread() << "\n";
  std::ofstream(file, std::ios::app) << line.str() << std::flush;
}

void stall_until(const std::string& file) {
  while (!std::ifstream(file)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// Faults that come before computing.
void suffer(const Fault& fault) {
  if (fault.kind == "throw") throw std::runtime_error(fault.detail);
  if (fault.kind == "bad_alloc") throw std::bad_alloc();
  if (fault.kind == "stall_us") std::this_thread::sleep_for(std::chrono::microseconds(std::stoll(fault.detail)));
  if (fault.kind == "stall_until") stall_until(fault.detail);
  if (fault.kind == "live_objects") std::ofstream(fault.detail, std::ios::app) << live_objects.load() << std::endl;
}

// Faults of the results.
void spoil(const Fault& fault, const Description& description, ArrayObject& results) {
  if (fault.kind == "count") results.items.pop_back();
  if (fault.kind != "nan" && fault.kind != "shape" && fault.kind != "type") return;
  auto& last = static_cast<TensorObject&>(*results.items.back());
  Formula other = description.outputs.back();
  if (fault.kind == "shape") other.shape.push_back(2);
  if (fault.kind == "type") other.type = number_types().at(other.type.type.code == kDLInt ? "float32" : "int32");
  if (fault.kind == "nan") other.shift = std::numeric_limits<double>::quiet_NaN();
  Reference<TensorObject> spoiled = other.apply(last, 0);
  results.items.back() = Reference<TVMFFIObject>(spoiled.give_up());
}

// One virtual machine.
class Machine {
 public:
  explicit Machine(std::shared_ptr<Library> library) : library_(std::move(library)) {}

  TVMFFIAny initialize(const Arguments& arguments) {
    const int64_t allocator = integer_of(arguments, 2);
    const int64_t expected[] = {kDLCPU, 0, allocator, kDLCPU, 0, allocator};
    for (size_t i = 0; i < 6; ++i) expect(integer_of(arguments, i) == expected[i], "a device is not the CPU");
    expect(arguments.size() == 6 && (allocator == 1 || allocator == 2), "there is no such allocator");
    is_initialized_ = true;
    return nothing();
  }

  TVMFFIAny arity(const Arguments& arguments) const {
    expect(text_of(arguments, 0) == "main", "there is no such function");
    return integer(static_cast<int64_t>(library_->description.inputs + library_->description.weights));
  }

  TVMFFIAny prepare(const std::string& name, const Arguments& arguments) {
    const Alone alone(*this);
    double further = 0;
    for (size_t i = 1; i < arguments.size(); ++i) further += sum(tensor_of(arguments, i));
    Reference<ArrayObject> results(new ArrayObject);
    Reference<TensorObject> made = library_->description.prepared.at(name).apply(tensor_of(arguments, 0), further);
    results->items.emplace_back(made.give_up());
    return handed_over(std::move(results));
  }

  TVMFFIAny main(const Arguments& arguments) {
    const Alone alone(*this);
    const Description& description = library_->description;
    expect(arguments.size() == description.inputs + description.weights, "main takes another number of tensors");
    expect(!description.shares_by_speed || library_->shares.load(), "share_by_speed was not called");
    const double first = element(tensor_of(arguments, 0), 0);
    const std::vector<Fault> faults = faults_at(first);
    for (const Fault& fault : faults) suffer(fault);
    std::this_thread::sleep_for(std::chrono::microseconds(description.sleep_us));
    Reference<ArrayObject> results = compute(arguments);
    for (const Fault& fault : faults) spoil(fault, description, *results);
    return handed_over(std::move(results));
  }

 private:
  // A call at a time.
  class Alone {
   public:
    explicit Alone(Machine& machine) : machine_(machine) {
      expect(machine.is_initialized_, "the virtual machine was not initialized");
      expect(thread_has_pool, "the calling thread has no pool of its own");
      expect(!machine.is_called_.exchange(true), "two threads call one virtual machine");
    }
    ~Alone() { machine_.is_called_.store(false); }

   private:
    Machine& machine_;
  };

  static TensorObject& tensor_of(const Arguments& arguments, size_t position) {
    return object_of<TensorObject>(arguments, position, kTVMFFITensor);
  }

  // Nothing happens while a machine is warmed up: at its first call.
  std::vector<Fault> faults_at(double first) {
    if (!std::exchange(is_warm_, true)) return {};
    const Description& description = library_->description;
    const auto call = static_cast<double>(library_->calls++);
    if (!description.log.empty()) write_log(description.log, first);
    std::vector<Fault> found;
    for (const Fault& fault : description.faults)
      if (fault.number == (fault.at_call ? call : first)) found.push_back(fault);
    return found;
  }

  Reference<ArrayObject> compute(const Arguments& arguments) const {
    const Description& description = library_->description;
    double further = 0;
    for (size_t i = description.inputs; i < arguments.size(); ++i) further += sum(tensor_of(arguments, i));
    Reference<ArrayObject> results(new ArrayObject);
    for (const Formula& output : description.outputs) {
      Reference<TensorObject> result = output.apply(tensor_of(arguments, output.input), further);
      results->items.emplace_back(result.give_up());
    }
    return results;
  }

  std::shared_ptr<Library> library_;
  bool is_initialized_ = false, is_warm_ = false;
  std::atomic<bool> is_called_{false};
};

TVMFFIAny start_machine(const std::shared_ptr<Library>& library) {
  auto machine = std::make_shared<Machine>(library);
  Reference<ModuleObject> module(new ModuleObject);
  module->functions["vm_initialization"] = [machine](const Arguments& all) { return machine->initialize(all); };
  module->functions["get_function_arity"] = [machine](const Arguments& all) { return machine->arity(all); };
  module->functions["main"] = [machine](const Arguments& all) { return machine->main(all); };
  for (const auto& [name, formula] : library->description.prepared)
    module->functions[name] = [machine, name = name](const Arguments& all) { return machine->prepare(name, all); };
  return handed_over(std::move(module));
}

TVMFFIAny load_module(const Arguments& arguments) {
  auto library = std::make_shared<Library>();
  library->description = read_description(text_of(arguments, 0));
  Reference<ModuleObject> module(new ModuleObject);
  module->functions["vm_load_executable"] = [library](const Arguments&) { return start_machine(library); };
  if (library->description.shares_by_speed)
    module->functions["share_by_speed"] = [library](const Arguments&) {
      library->shares.store(true);
      return nothing();
    };
  return handed_over(std::move(module));
}

TVMFFIAny get_function(const Arguments& arguments) {
  auto& module = object_of<ModuleObject>(arguments, 0, kTVMFFIModule);
  const std::string name = text_of(arguments, 1);
  const auto found = module.functions.find(name);
  const bool is_visible = name != "share_by_speed" || integer_of(arguments, 2) != 0;  // it is in an import
  if (found == module.functions.end() || !is_visible) return nothing();
  return handed_over(Reference<FunctionObject>(new FunctionObject(found->second)));
}

TVMFFIAny make_array(const Arguments& arguments) {
  Reference<ArrayObject> array(new ArrayObject);
  for (size_t i = 0; i < arguments.size(); ++i)
    array->items.emplace_back(new StringObject(text_of(arguments, i)));
  return handed_over(std::move(array));
}

TVMFFIAny array_size(const Arguments& arguments) {
  return integer(static_cast<int64_t>(object_of<ArrayObject>(arguments, 0, kTVMFFIArray).items.size()));
}

TVMFFIAny array_item(const Arguments& arguments) {
  const auto& items = object_of<ArrayObject>(arguments, 0, kTVMFFIArray).items;
  const auto position = static_cast<size_t>(integer_of(arguments, 1));
  expect(position < items.size(), "an array is not that long");
  return handed_over(items[position]);
}

// As a thread with a pool of TVM, whose workers spin, ends on a busy machine: not for minutes.
struct SlowEnd {
  ~SlowEnd() {
    while (std::getenv("FAKE_THREADS_NEVER_END") != nullptr) pause();
  }
};

TVMFFIAny config_threadpool(const Arguments& arguments) {
  thread_local const SlowEnd end_of_thread;
  std::vector<const char*> ids;
  for (const auto& item : object_of<ArrayObject>(arguments, 2, kTVMFFIArray).items)
    ids.push_back(static_cast<StringObject&>(*item).text.c_str());
  const int status = configure_pool(integer_of(arguments, 0), integer_of(arguments, 1), ids.data(), ids.size());
  expect(status == 0, "these cores make no pool");
  thread_has_pool = true;
  return nothing();
}

Body global_function(const std::string& name) {
  if (name == "ffi.ModuleLoadFromFile") return load_module;
  if (name == "ffi.ModuleGetFunction") return get_function;
  if (name == "ffi.Array") return make_array;
  if (name == "ffi.ArraySize") return array_size;
  if (name == "ffi.ArrayGetItem") return array_item;
  if (name == "runtime.config_threadpool" && configure_pool != nullptr) return config_threadpool;
  return nullptr;
}

// What TVM's own functions do with what they throw.
template <typename Work>
int guarded(Work work) {
  try {
    work();
    return 0;
  } catch (const std::bad_alloc&) {
    return raise("InternalError", "std::bad_alloc");
  } catch (const std::exception& error) {
    return raise("RuntimeError", std::string(error.what()) + "\n  a second line that nobody wants to read");
  }
}

}  // namespace

EXPORTED void fake_runtime_set_pool(int (*configure)(int64_t, int64_t, const char* const*, size_t)) {
  configure_pool = configure;
}

EXPORTED int TVMFFIObjectIncRef(TVMFFIObjectHandle object) {
  take_reference(static_cast<TVMFFIObject*>(object));
  return 0;
}

EXPORTED int TVMFFIObjectDecRef(TVMFFIObjectHandle object) {
  drop_reference(static_cast<TVMFFIObject*>(object));
  return 0;
}

EXPORTED void TVMFFIErrorMoveFromRaised(TVMFFIObjectHandle* result) { *result = std::exchange(raised, nullptr); }

EXPORTED int TVMFFIFunctionGetGlobal(const TVMFFIByteArray* name, TVMFFIObjectHandle* result) {
  return guarded([&] {
    Body body = global_function(std::string(name->data, name->size));
    *result = body ? new FunctionObject(std::move(body)) : nullptr;
  });
}

EXPORTED int TVMFFIFunctionCall(TVMFFIObjectHandle function, TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  return guarded([&] {
    expect(result->type_index == kTVMFFINone, "there is something in the result already");
    *result = static_cast<FunctionObject*>(function)->body(Arguments(arguments, arguments + count));
  });
}

EXPORTED int TVMFFITensorFromDLPack(DLManagedTensor* from, int32_t alignment, int32_t contiguous,
                                    TVMFFIObjectHandle* result) {
  return guarded([&] {
    const auto address = reinterpret_cast<uintptr_t>(from->dl_tensor.data) + from->dl_tensor.byte_offset;
    expect(address % static_cast<uintptr_t>(alignment) == 0, "a tensor is not aligned");
    expect(contiguous == 0 || from->dl_tensor.strides == nullptr, "a tensor is not contiguous");
    *result = new TensorObject(from);
  });
}

#endif
