#include "cuda/backend.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string_view>

#include "core/error.h"

namespace automodel::cuda {
namespace {

namespace fs = std::filesystem;

// In the order of their dependence: each is there when one that needs it is opened.
constexpr const char* kLibraries[] = {"libcudart.so.", "libcublasLt.so.", "libcublas.so.", "libcudnn.so.",
                                      "libnccl.so."};

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::vector<fs::path> places_of_plugin() {
  if (std::string named = environment("AUTOMODEL_CUDA_PLUGIN"); !named.empty()) return {named};
  std::error_code error;
  fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  if (error) return {kPluginFile};
  std::vector<fs::path> places{folder / kPluginFile, folder / "../lib" / kPluginFile};
  if (std::string_view(AUTOMODEL_LIBRARY_FOLDER) != "lib")
    places.push_back(folder / ".." / AUTOMODEL_LIBRARY_FOLDER / kPluginFile);
  return places;
}

// The folder itself, and the `lib` folders of the packages in it.
void add_folder(std::vector<fs::path>& out, const fs::path& folder) {
  std::error_code error;
  out.push_back(folder);
  for (const auto& package : fs::directory_iterator(folder, error))
    if (fs::is_directory(package.path() / "lib", error)) out.push_back(package.path() / "lib");
}

std::vector<fs::path> named_folders() {
  std::vector<fs::path> out;
  std::string list = environment("AUTOMODEL_CUDA_LIBRARY_PATH");
  for (size_t begin = 0; begin < list.size();) {
    size_t end = std::min(list.find(':', begin), list.size());
    if (end > begin) add_folder(out, list.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

std::vector<fs::path> folders_of_python() {
  std::vector<fs::path> out;
  std::error_code error;
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    std::string root = environment(variable);
    if (root.empty()) continue;
    for (const auto& python : fs::directory_iterator(fs::path(root) / "lib", error))
      if (python.path().filename().string().starts_with("python"))
        add_folder(out, python.path() / "site-packages" / "nvidia");
  }
  return out;
}

// Opens the CUDA libraries that lie in the folders, so that the plugin's needs are met by what is open already.
bool open_libraries(const std::vector<fs::path>& folders) {
  bool any = false;
  std::error_code error;
  for (std::string_view library : kLibraries) {
    bool open = false;
    for (const fs::path& folder : folders)
      for (const auto& file : fs::directory_iterator(folder, error))
        if (!open && file.path().filename().string().starts_with(library))
          open = ::dlopen(file.path().c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr;
    any |= open;
  }
  return any;
}

// dlerror() as a clause.
std::string loader_message(const fs::path& file) {
  const char* error = ::dlerror();
  std::string text = error == nullptr ? "unknown error" : error;
  size_t colon = text.find(": cannot open shared object file");
  if (colon != std::string::npos && text.find(kPluginFile) == std::string::npos)
    return fmt::format(
        "{} needs {}, which was not found; install the CUDA runtime libraries, or name their folder in "
        "AUTOMODEL_CUDA_LIBRARY_PATH",
        file.string(), text.substr(0, colon));
  return fmt::format("{} cannot be loaded: {}", file.string(), text);
}

void* open_plugin(const fs::path& file, std::string& why_not) {
  open_libraries(named_folders());
  void* handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle != nullptr) return handle;
  why_not = loader_message(file);
  if (!open_libraries(folders_of_python())) return nullptr;
  handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) why_not = loader_message(file);
  return handle;
}

// Fills in the devices of a table.
void adopt(Backend& backend, const Plugin& plugin) {
  if (plugin.version != kPluginVersion || std::string_view(plugin.program_version) != AUTOMODEL_VERSION) {
    backend.why_not =
        plugin.version != kPluginVersion
            ? fmt::format("{} has version {} of the interface, this program {}; install both from the same build",
                          backend.file, plugin.version, kPluginVersion)
            : fmt::format("{} belongs to automodel {}, this is {}; install both from the same build", backend.file,
                          plugin.program_version, AUTOMODEL_VERSION);
    return;
  }
  backend.plugin = &plugin;
  if (plugin.kernels() == nullptr) {
    backend.why_not = backend.file + " was built without kernels";
    return;
  }
  backend.devices = plugin.count_devices(backend.why_not);
  if (backend.usable()) ops::set_cuda_kernels(plugin.kernels());
}

// The driver's own library, which costs nothing to look for.
bool has_driver() {
  return ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != nullptr;
}

Backend find_backend(bool anyway) {
  Backend found;
  std::error_code error;
  std::vector<fs::path> places = places_of_plugin();
  auto file = std::ranges::find_if(places, [&](const fs::path& place) { return fs::is_regular_file(place, error); });
  if (file == places.end()) {
    std::string folders;
    for (const fs::path& place : places)
      folders += (folders.empty() ? "" : " nor in ") + place.parent_path().lexically_normal().string();
    found.why_not = fmt::format("there is no {} in {}; it is built where nvcc is found", kPluginFile, folders);
    return found;
  }
  if (!anyway && !has_driver()) {
    found.why_not = "there is no NVIDIA driver (libcuda.so.1 was not found)";
    found.closed = true;
    return found;
  }
  void* handle = open_plugin(*file, found.why_not);
  if (handle == nullptr) return found;
  found.file = file->lexically_normal().string();
  auto entry = reinterpret_cast<PluginEntry>(::dlsym(handle, kPluginEntry));
  if (entry == nullptr) {
    found.why_not = fmt::format("{} has no entry {}: it is another library", found.file, kPluginEntry);
    return found;
  }
  found.why_not.clear();
  adopt(found, *entry());
  return found;  // never closed: its threads and its memory may outlive every user
}

struct Slot {
  std::mutex mutex;
  std::optional<Backend> backend;
};

Slot& slot() {
  static Slot one;
  return one;
}

}  // namespace

const Backend& backend(bool anyway) {
  std::lock_guard lock(slot().mutex);
  if (!slot().backend || (anyway && slot().backend->closed)) slot().backend = find_backend(anyway);
  return *slot().backend;
}

void use_plugin(const Plugin& plugin) {
  std::lock_guard lock(slot().mutex);
  Backend given;
  given.file = "a plugin in the program";
  adopt(given, plugin);
  slot().backend = given;
}

}  // namespace automodel::cuda
