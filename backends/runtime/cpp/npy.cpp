#include "npy.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string_view>

#include "errors.h"
#include "mapped_file.h"

namespace cospipe {

namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr size_t kVersionBytes = 2;

struct NumpyType {
  std::string_view code;
  ElementType type;
};

constexpr NumpyType kTypes[] = {
    {"<f8", ElementType::kFloat64}, {"<f4", ElementType::kFloat32}, {"<f2", ElementType::kFloat16},
    {"<i8", ElementType::kInt64},   {"<i4", ElementType::kInt32},   {"<i2", ElementType::kInt16},
    {"|i1", ElementType::kInt8},    {"|u1", ElementType::kUInt8},   {"|b1", ElementType::kBool},
};

std::string_view code_of(ElementType type) {
  const auto has_type = [type](const NumpyType& known) { return known.type == type; };
  return std::find_if(std::begin(kTypes), std::end(kTypes), has_type)->code;
}

ElementType type_of(std::string_view code, const std::string& origin) {
  for (const NumpyType& known : kTypes) {
    if (known.code == code) return known.type;
  }
  const std::string shown(code);
  if (code.find('O') != code.npos) throw Error(origin + ": it holds Python objects, which are never read");
  if (!code.empty() && code[0] == '>') throw Error(origin + ": its numbers are big-endian (" + shown + ")");
  throw Error(origin + ": its numbers are of type " + shown + ", which networks do not take");
}

// What the header says; nothing of it is checked but its form.
struct NpyHeader {
  std::optional<std::string> type_code;
  std::optional<bool> is_fortran_ordered;
  std::optional<std::vector<int64_t>> shape;
};

// Reads the one dictionary that numpy writes, and nothing else of Python's syntax.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& origin) : rest_(text), origin_(origin) {}

  NpyHeader parse() {
    NpyHeader header;
    expect('{');
    while (!found('}')) {
      parse_entry(header);
      if (found('}')) break;
      expect(',');
    }
    skip_spaces();
    if (!rest_.empty() || !header.type_code || !header.is_fortran_ordered || !header.shape) fail();
    return header;
  }

 private:
  void parse_entry(NpyHeader& header) {
    const std::string key = parse_text();
    expect(':');
    if (key == "descr" && !header.type_code)
      header.type_code = parse_type_code();
    else if (key == "fortran_order" && !header.is_fortran_ordered)
      header.is_fortran_ordered = parse_bool();
    else if (key == "shape" && !header.shape)
      header.shape = parse_shape();
    else
      fail();
  }

  std::string parse_type_code() {
    skip_spaces();
    if (!rest_.empty() && rest_[0] == '[') throw Error(origin_ + ": it holds records instead of numbers");
    return parse_text();
  }

  std::string parse_text() {
    skip_spaces();
    if (rest_.empty() || (rest_[0] != '\'' && rest_[0] != '"')) fail();
    const size_t end = rest_.find(rest_[0], 1);
    if (end == rest_.npos) fail();
    std::string text(rest_.substr(1, end - 1));
    const auto is_plain = [](char character) { return character >= ' ' && character <= '~' && character != '\\'; };
    if (!std::all_of(text.begin(), text.end(), is_plain)) fail();
    rest_.remove_prefix(end + 1);
    return text;
  }

  bool parse_bool() {
    skip_spaces();
    const bool value = rest_.substr(0, 4) == "True";
    if (!value && rest_.substr(0, 5) != "False") fail();
    rest_.remove_prefix(value ? 4 : 5);
    return value;
  }

  // A tuple: a comma behind each extent, but for the last one of several.
  std::vector<int64_t> parse_shape() {
    std::vector<int64_t> shape;
    expect('(');
    while (!found(')')) {
      shape.push_back(parse_extent());
      if (shape.size() > kMostDimensions) throw Error(origin_ + ": it has too many dimensions");
      if (found(',')) continue;
      if (shape.size() < 2) fail();
      expect(')');
      break;
    }
    return shape;
  }

  int64_t parse_extent() {
    constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
    skip_spaces();
    size_t digits = 0;
    int64_t value = 0;
    for (; digits < rest_.size() && rest_[digits] >= '0' && rest_[digits] <= '9'; ++digits) {
      const int64_t digit = rest_[digits] - '0';
      if (value > (kMost - digit) / 10) throw Error(origin_ + ": its shape does not fit into any memory");
      value = 10 * value + digit;
    }
    if (digits == 0) fail();
    rest_.remove_prefix(digits);
    return value;
  }

  void skip_spaces() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \n"), rest_.size())); }

  bool found(char character) {
    skip_spaces();
    if (rest_.empty() || rest_[0] != character) return false;
    rest_.remove_prefix(1);
    return true;
  }

  void expect(char character) {
    if (!found(character)) fail();
  }

  [[noreturn]] void fail() const { throw Error(origin_ + ": its header is none that numpy writes"); }

  std::string_view rest_;
  const std::string& origin_;
};

// The header's text, behind magic, version and length.
std::string_view header_text(std::string_view file, const std::string& origin) {
  if (file.substr(0, kMagic.size()) != kMagic) throw Error(origin + ": it is not an .npy array");
  file.remove_prefix(kMagic.size());
  if (file.size() < kVersionBytes) throw Error(origin + ": it is cut off inside its header");
  const int major = static_cast<unsigned char>(file[0]);
  if (major < 1 || major > 3 || file[1] != 0) throw Error(origin + ": it is an .npy array of an unknown version");
  file.remove_prefix(kVersionBytes);
  const size_t length_bytes = major == 1 ? 2 : 4;
  uint64_t length = 0;
  for (size_t i = std::min(length_bytes, file.size()); i-- > 0;) {
    length = length << 8 | static_cast<unsigned char>(file[i]);
  }
  if (file.size() < length_bytes || file.size() - length_bytes < length) {
    throw Error(origin + ": it is cut off inside its header");
  }
  return file.substr(length_bytes, length);
}

}  // namespace

Array parse_npy(const Data& file, const std::string& name, const std::string& origin) {
  const auto* begin = static_cast<const char*>(file.begin);
  const std::string_view text = header_text(begin == nullptr ? "" : std::string_view(begin, file.bytes), origin);
  const NpyHeader header = HeaderParser(text, origin).parse();
  Array array{{name, *header.shape, type_of(*header.type_code, origin)}, {}};
  if (*header.is_fortran_ordered) {
    throw Error(origin + ": it is in Fortran's order; write it with numpy.ascontiguousarray");
  }
  const char* numbers = text.data() + text.size();
  const auto bytes = file.bytes - static_cast<uint64_t>(numbers - begin);
  const std::optional<uint64_t> expected = dense_bytes(array.spec.shape, array.spec.type);
  if (!expected) throw Error(origin + ": its shape does not fit into any memory");
  if (bytes != *expected) {
    throw Error(origin + ": it has " + std::to_string(bytes) + " bytes of numbers, " + shape_text(array.spec.shape) +
                " " + name_of(array.spec.type) + " has " + std::to_string(*expected));
  }
  array.data = {file.owner, numbers, bytes};
  return array;
}

std::string npy_header(const TensorSpec& spec) {
  std::string shape;
  for (int64_t extent : spec.shape) shape += (shape.empty() ? "" : " ") + std::to_string(extent) + ",";
  if (spec.shape.size() > 1) shape.pop_back();
  std::string text = "{'descr': '" + std::string(code_of(spec.type)) + "', 'fortran_order': False, 'shape': (" + shape +
                     "), }";
  const size_t before = kMagic.size() + kVersionBytes + 2;
  text.append(kAlignmentBytes - (before + text.size() + 1) % kAlignmentBytes, ' ');
  text += '\n';
  const std::string version("\x01\x00", 2);
  const std::string length{static_cast<char>(text.size() & 255), static_cast<char>(text.size() >> 8)};
  return std::string(kMagic) + version + length + text;
}

Array read_npy(const std::string& path) { return parse_npy(map_file(path), "", path); }

}  // namespace cospipe
