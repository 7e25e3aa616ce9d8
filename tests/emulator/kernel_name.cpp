#include "tests/emulator/kernel_name.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>

namespace strata::gpu_emulated {
namespace {

// Functions of /proc/self/exe: address to mangled name.
std::map<std::uintptr_t, std::string> read_symbols() {
  std::map<std::uintptr_t, std::string> symbols;
  std::uintptr_t base = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* to) {
        *static_cast<std::uintptr_t*>(to) = info->dlpi_addr;
        return 1;  // the program is the first
      },
      &base);
  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  if (file < 0) return symbols;
  struct stat info = {};
  fstat(file, &info);
  const auto size = static_cast<std::size_t>(info.st_size);
  void* memory = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (memory == MAP_FAILED) return symbols;
  const char* image = static_cast<const char*>(memory);
  const auto& header = *reinterpret_cast<const ElfW(Ehdr)*>(image);
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(image + header.e_shoff);
  for (int i = 0; i < header.e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const char* names = image + sections[sections[i].sh_link].sh_offset;
    const auto* entries = reinterpret_cast<const ElfW(Sym)*>(image + sections[i].sh_offset);
    for (std::size_t k = 0; k < sections[i].sh_size / sizeof(ElfW(Sym)); ++k)
      if ((entries[k].st_info & 0xf) == STT_FUNC && entries[k].st_value != 0)
        symbols[base + entries[k].st_value] = names + entries[k].st_name;
  }
  munmap(memory, size);
  return symbols;
}

// "void strata::gpu_emulated::(anonymous namespace)::add_kernel<float>(float const*, long)" to "add_kernel<float>".
std::string short_name(std::string name) {
  for (const std::string space : {"(anonymous namespace)::", "strata::gpu_emulated::", "strata::"})
    for (std::size_t at = name.find(space); at != std::string::npos; at = name.find(space, at)) name.erase(at, space.size());
  std::size_t begin = 0;
  int depth = 0;  // of template arguments
  for (std::size_t i = 0; i < name.size(); ++i) {
    depth += name[i] == '<' ? 1 : name[i] == '>' ? -1 : 0;
    if (depth > 0) continue;
    if (name[i] == '(') return name.substr(begin, i - begin);
    if (name[i] == ' ') begin = i + 1;
  }
  return name.substr(begin);
}

}  // namespace

std::string kernel_name(const void* address) {
  static const std::map<std::uintptr_t, std::string> kSymbols = read_symbols();
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const auto found = kSymbols.find(at);
  if (found == kSymbols.end()) {
    char text[32];
    std::snprintf(text, sizeof(text), "at 0x%zx", static_cast<std::size_t>(at));
    return text;
  }
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> plain(abi::__cxa_demangle(found->second.c_str(), nullptr, nullptr, &status),
                                                     std::free);
  return status == 0 ? short_name(plain.get()) : found->second;
}

}  // namespace strata::gpu_emulated
