#include "zip.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>

#include "crc32.h"
#include "errors.h"
#include "scratch_file.h"

namespace cospipe {

namespace {

constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEnd = 0x06054b50;
constexpr uint32_t kZip64End = 0x06064b50, kZip64Locator = 0x07064b50;
constexpr size_t kLocalHeaderBytes = 30, kCentralHeaderBytes = 46, kEndBytes = 22;
constexpr size_t kZip64EndBytes = 56, kZip64LocatorBytes = 20;
constexpr uint64_t kFull16 = 0xffff, kFull32 = 0xffffffff;  // stand for: look into the zip64 fields
constexpr uint64_t kZip64Field = 1;
constexpr uint64_t kEncrypted = 1, kNameIsUtf8 = 1 << 11;
constexpr uint64_t kVersion = 20, kVersionWithZip64 = 45;
constexpr uint64_t kFirstOfJanuary1980 = 0x21;

// Reads numbers at places of a file; places outside are errors.
class Reader {
 public:
  Reader(std::string_view file, const std::string& origin) : file_(file), origin_(origin) {}

  uint64_t number(uint64_t offset, uint64_t bytes) const {
    uint64_t value = 0;
    const std::string_view digits = text(offset, bytes);
    for (size_t i = digits.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(digits[i]);
    return value;
  }

  std::string_view text(uint64_t offset, uint64_t bytes) const {
    if (offset > file_.size() || bytes > file_.size() - offset) fail("it is cut off, or damaged");
    return file_.substr(offset, bytes);
  }

  uint64_t bytes() const { return file_.size(); }

  [[noreturn]] void fail(const std::string& what) const { throw Error(origin_ + ": " + what); }

 private:
  const std::string_view file_;
  const std::string& origin_;
};

struct Directory {
  uint64_t members = 0, offset = 0, bytes = 0;
};

// What the directory says of a member, and which bytes it takes.
struct Entry {
  std::string name;
  uint64_t checksum = 0, bytes = 0, packed_bytes = 0;
  uint64_t begin = 0, data = 0, end = 0;
};

std::string printable(std::string_view name) {
  std::string text(name);
  const auto is_control = [](unsigned char character) { return character < ' ' || character == 127; };
  std::replace_if(text.begin(), text.end(), is_control, '?');
  return "'" + text + "'";
}

// The record at the end of an archive; a comment may follow it.
uint64_t find_end(const Reader& file) {
  if (file.bytes() < kEndBytes) file.fail("it is not an .npz archive");
  const uint64_t last = file.bytes() - kEndBytes;
  for (uint64_t comment = 0; comment <= std::min(last, kFull16); ++comment) {
    const uint64_t end = last - comment;
    if (file.number(end, 4) == kEnd && file.number(end + 20, 2) == comment) return end;
  }
  file.fail("it is not an .npz archive, or it is cut off");
}

Directory find_directory(const Reader& file) {
  const uint64_t end = find_end(file);
  Directory directory{file.number(end + 10, 2), file.number(end + 16, 4), file.number(end + 12, 4)};
  uint64_t directory_end = end;
  const bool has_zip64 = end >= kZip64LocatorBytes && file.number(end - kZip64LocatorBytes, 4) == kZip64Locator;
  if (has_zip64) {
    directory_end = file.number(end - kZip64LocatorBytes + 8, 8);
    if (file.number(directory_end, 4) != kZip64End) file.fail("its directory is damaged");
    directory = {file.number(directory_end + 32, 8), file.number(directory_end + 48, 8),
                 file.number(directory_end + 40, 8)};
  }
  const bool fits = directory.offset <= directory_end && directory.bytes == directory_end - directory.offset;
  if (!fits) file.fail("its directory is damaged");
  return directory;
}

// Takes the numbers that were too large for their own fields from the extra field for zip64, where they follow each
// other.
void read_zip64(const Reader& file, uint64_t extra, uint64_t extra_bytes, const std::vector<uint64_t*>& large) {
  const uint64_t end = extra + extra_bytes;
  while (end - extra >= 4) {
    const uint64_t kind = file.number(extra, 2), bytes = file.number(extra + 2, 2);
    extra += 4;
    if (bytes > end - extra) break;
    if (kind == kZip64Field && bytes >= 8 * large.size()) {
      for (size_t i = 0; i < large.size(); ++i) *large[i] = file.number(extra + 8 * i, 8);
      return;
    }
    extra += bytes;
  }
  file.fail("a size in its directory is damaged");
}

void check_packing(const Reader& file, uint64_t header, const std::string& name) {
  const uint64_t flags = file.number(header + 8, 2), method = file.number(header + 10, 2);
  if ((flags & kEncrypted) != 0) file.fail("its member " + printable(name) + " is encrypted");
  if (method == 0) return;
  file.fail("its member " + printable(name) + " is compressed; write it with numpy.savez instead of savez_compressed");
}

// Where a member's bytes lie: behind a header of its own.
void locate(const Reader& file, const Directory& directory, Entry& entry) {
  const bool is_header = entry.begin < directory.offset && file.number(entry.begin, 4) == kLocalHeader;
  const uint64_t name_bytes = is_header ? file.number(entry.begin + 26, 2) : 0;
  if (!is_header || file.text(entry.begin + kLocalHeaderBytes, name_bytes) != entry.name) {
    file.fail("its member " + printable(entry.name) + " is not where its directory says");
  }
  entry.data = entry.begin + kLocalHeaderBytes + name_bytes + file.number(entry.begin + 28, 2);
  const bool fits = entry.data <= directory.offset && entry.bytes <= directory.offset - entry.data;
  if (!fits || entry.packed_bytes != entry.bytes) {
    file.fail("its member " + printable(entry.name) + " is larger than the archive");
  }
  entry.end = entry.data + entry.bytes;
}

// Reads a member's part of the directory; returns where the next one begins.
uint64_t read_entry(const Reader& file, const Directory& directory, uint64_t header, Entry& entry) {
  if (file.number(header, 4) != kCentralHeader) file.fail("its directory is damaged");
  const uint64_t name_bytes = file.number(header + 28, 2), extra_bytes = file.number(header + 30, 2);
  const uint64_t comment_bytes = file.number(header + 32, 2);
  entry.name = file.text(header + kCentralHeaderBytes, name_bytes);
  check_packing(file, header, entry.name);
  entry.checksum = file.number(header + 16, 4);
  entry.packed_bytes = file.number(header + 20, 4);
  entry.bytes = file.number(header + 24, 4);
  entry.begin = file.number(header + 42, 4);
  std::vector<uint64_t*> large;
  for (uint64_t* value : {&entry.bytes, &entry.packed_bytes, &entry.begin}) {
    if (*value == kFull32) large.push_back(value);
  }
  const uint64_t extra = header + kCentralHeaderBytes + name_bytes;
  file.text(extra, extra_bytes);
  if (!large.empty()) read_zip64(file, extra, extra_bytes, large);
  locate(file, directory, entry);
  return extra + extra_bytes + comment_bytes;
}

std::vector<Entry> read_entries(const Reader& file) {
  const Directory directory = find_directory(file);
  std::vector<Entry> entries;
  uint64_t header = directory.offset;
  for (uint64_t i = 0; i < directory.members; ++i) {
    header = read_entry(file, directory, header, entries.emplace_back());
  }
  if (header != directory.offset + directory.bytes) file.fail("its directory is damaged");
  return entries;
}

void check_names(const Reader& file, const std::vector<Entry>& entries) {
  std::set<std::string> names;
  for (const Entry& entry : entries) {
    if (!names.insert(entry.name).second) file.fail("it holds " + printable(entry.name) + " twice");
  }
}

void check_overlaps(const Reader& file, const std::vector<Entry>& entries) {
  std::vector<const Entry*> order;
  for (const Entry& entry : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) { return a->begin < b->begin; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->end <= order[i]->begin) continue;
    file.fail("its members " + printable(order[i - 1]->name) + " and " + printable(order[i]->name) + " overlap");
  }
}

std::string little_endian(uint64_t value, size_t bytes) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) text += static_cast<char>(value >> 8 * i & 255);
  return text;
}

std::string numbers(const std::vector<std::pair<uint64_t, size_t>>& values_and_bytes) {
  std::string text;
  for (const auto& [value, bytes] : values_and_bytes) text += little_endian(value, bytes);
  return text;
}

// The extra field for numbers that do not fit into 32 bits.
std::string zip64_field(const std::vector<uint64_t>& large) {
  if (large.empty()) return "";
  std::string text = numbers({{kZip64Field, 2}, {8 * large.size(), 2}});
  for (uint64_t value : large) text += little_endian(value, 8);
  return text;
}

uint64_t flags_of(const std::string& name) {
  const auto is_ascii = [](char character) { return static_cast<unsigned char>(character) < 128; };
  return std::all_of(name.begin(), name.end(), is_ascii) ? 0 : kNameIsUtf8;
}

Entry describe(const ZipPieces& member, uint64_t begin) {
  if (member.name.size() > kFull16) throw Error("The name of a result is too long for an archive.");
  Entry entry;
  entry.name = member.name;
  entry.begin = begin;
  uint32_t checksum = 0;
  for (const Data& piece : member.pieces) {
    checksum = crc32(piece.begin, piece.bytes, checksum);
    entry.bytes += piece.bytes;
  }
  entry.checksum = checksum;
  return entry;
}

// The fields that both headers of a member share, from flags to the length of its name.
std::string common_fields(const Entry& entry) {
  const uint64_t bytes = std::min(entry.bytes, kFull32);
  return numbers({{flags_of(entry.name), 2}, {0, 2}, {0, 2}, {kFirstOfJanuary1980, 2}, {entry.checksum, 4},
                  {bytes, 4}, {bytes, 4}, {entry.name.size(), 2}});
}

std::string local_header(const Entry& entry) {
  const bool is_large = entry.bytes >= kFull32;
  const std::string extra = is_large ? zip64_field({entry.bytes, entry.bytes}) : "";
  return numbers({{kLocalHeader, 4}, {is_large ? kVersionWithZip64 : kVersion, 2}}) + common_fields(entry) +
         little_endian(extra.size(), 2) + entry.name + extra;
}

std::string central_header(const Entry& entry) {
  std::vector<uint64_t> large;
  if (entry.bytes >= kFull32) large = {entry.bytes, entry.bytes};
  if (entry.begin >= kFull32) large.push_back(entry.begin);
  const std::string extra = zip64_field(large);
  const uint64_t version = large.empty() ? kVersion : kVersionWithZip64;
  return numbers({{kCentralHeader, 4}, {version, 2}, {version, 2}}) + common_fields(entry) +
         numbers({{extra.size(), 2}, {0, 2}, {0, 2}, {0, 2}, {0, 4}, {std::min(entry.begin, kFull32), 4}}) +
         entry.name + extra;
}

std::string end_of(const Directory& directory) {
  const uint64_t members = std::min(directory.members, kFull16);
  const std::string end =
      numbers({{kEnd, 4}, {0, 2}, {0, 2}, {members, 2}, {members, 2}, {std::min(directory.bytes, kFull32), 4},
               {std::min(directory.offset, kFull32), 4}, {0, 2}});
  const bool is_small = directory.members < kFull16 && directory.bytes < kFull32 && directory.offset < kFull32;
  if (is_small) return end;
  return numbers({{kZip64End, 4}, {kZip64EndBytes - 12, 8}, {kVersionWithZip64, 2}, {kVersionWithZip64, 2}, {0, 4},
                  {0, 4}, {directory.members, 8}, {directory.members, 8}, {directory.bytes, 8}, {directory.offset, 8},
                  {kZip64Locator, 4}, {0, 4}, {directory.offset + directory.bytes, 8}, {1, 4}}) +
         end;
}

}  // namespace

std::vector<ZipMember> read_zip(const Data& data, const std::string& origin) {
  const auto* begin = static_cast<const char*>(data.begin);
  const Reader file(begin == nullptr ? "" : std::string_view(begin, data.bytes), origin);
  const std::vector<Entry> entries = read_entries(file);
  check_names(file, entries);
  check_overlaps(file, entries);
  std::vector<ZipMember> members;
  for (const Entry& entry : entries) {
    if (crc32(begin + entry.data, entry.bytes) != entry.checksum) {
      file.fail("its member " + printable(entry.name) + " is damaged: its checksum is wrong");
    }
    members.push_back({entry.name, {data.owner, begin + entry.data, entry.bytes}});
  }
  return members;
}

void write_zip(const std::string& path, const std::vector<ZipPieces>& members) {
  ScratchFile file(path);
  std::string central;
  uint64_t offset = 0;
  for (const ZipPieces& member : members) {
    const Entry entry = describe(member, offset);
    const std::string header = local_header(entry);
    file.write(header.data(), header.size());
    for (const Data& piece : member.pieces) file.write(piece.begin, piece.bytes);
    offset += header.size() + entry.bytes;
    central += central_header(entry);
  }
  central += end_of({members.size(), offset, central.size()});
  file.write(central.data(), central.size());
  file.commit();
}

}  // namespace cospipe
