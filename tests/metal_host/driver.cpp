// Runs one launch of a kernel of src/kernel/metal on the CPU, twice: with threads in ascending and in descending order,
// whose results must be the same. Each load and store of the kernel is checked: it lies inside one buffer, at a multiple
// of its size, and stores go to outputs.
//
// `driver KERNEL THREADS_X THREADS_Y N_OUTPUTS < buffers > outputs`: each buffer is two u64, its length in bytes and its
// distance from a multiple of 16, and its bytes. g++ compiles it with the kernels' files before it and
// -DENTRIES='ENTRY(name) ...'.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

// Metal's words end here.
#undef kernel
#undef device
#undef constant

// What is called before a load or a store must not be checked itself.
#define UNCHECKED __attribute__((no_sanitize("kernel-address")))

namespace {

struct Buffer {
    unsigned char *memory; // begins at a multiple of 16
    std::uint64_t lead, n_bytes;
    bool is_output;
    unsigned char *begin() const { return memory + lead; }
};

std::vector<Buffer> buffers;
// Volatile, since g++ takes it that its own checks read no variable of a program.
volatile std::uintptr_t frame; // of the launch: a kernel's own variables lie below

volatile bool is_running = false; // a kernel, and not the driver

[[noreturn]] void fail(const char *what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(1);
}

void check_pointer(bool stores, std::uintptr_t pointer, std::uint64_t n_bytes, std::uint64_t alignment) {
    if (pointer % alignment != 0) fail("touches an address that is no multiple of the access");
    for (const Buffer &buffer : buffers) {
        const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(buffer.begin());
        if (pointer < begin || pointer - begin > buffer.n_bytes || buffer.n_bytes - (pointer - begin) < n_bytes) continue;
        if (stores && !buffer.is_output) fail("stores in an input");
        return;
    }
    fail("touches memory outside of all buffers");
}

UNCHECKED void check(bool stores, std::uintptr_t pointer, std::uint64_t n_bytes, std::uint64_t alignment) {
    const std::uintptr_t here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    if (!is_running || (pointer > here && pointer < frame)) return;
    is_running = false;
    check_pointer(stores, pointer, n_bytes, alignment);
    is_running = true;
}

} // namespace

// What g++ calls before each load and store of a kernel.
extern "C" {
#define ACCESS(BYTES)                                                                                                 \
    UNCHECKED void __asan_load##BYTES##_noabort(std::uintptr_t pointer) { check(false, pointer, BYTES, BYTES); }      \
    UNCHECKED void __asan_store##BYTES##_noabort(std::uintptr_t pointer) { check(true, pointer, BYTES, BYTES); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
UNCHECKED void __asan_loadN_noabort(std::uintptr_t pointer, std::size_t n) { check(false, pointer, n, 1); }
UNCHECKED void __asan_storeN_noabort(std::uintptr_t pointer, std::size_t n) { check(true, pointer, n, 1); }
UNCHECKED void __asan_handle_no_return() {}
UNCHECKED void __asan_before_dynamic_init(const char *) {}
UNCHECKED void __asan_after_dynamic_init() {}
}

namespace {

// Reads the argument with this number: a pointer or a reference is a buffer, and only outputs are not const.
template <class T> T argument(std::size_t index) {
    typedef std::remove_reference_t<T> Value;
    typedef std::remove_pointer_t<Value> Pointed;
    const Buffer &buffer = buffers[index];
    if constexpr (std::is_pointer_v<Value>) {
        if (std::is_const_v<Pointed> == buffer.is_output) fail("has an output for an input, or the other way round");
        return reinterpret_cast<T>(buffer.begin());
    } else {
        if (buffer.n_bytes != sizeof(Value)) fail("is given another job than its own");
        return *reinterpret_cast<Value *>(buffer.begin());
    }
}

template <class... Args> using Kernel = void (*)(metal::uint2, metal::uint2, Args...);

template <class... Args, std::size_t... I>
void each_thread(Kernel<Args...> kernel, std::index_sequence<I...>, metal::uint2 size, bool reverse) {
    const std::tuple<Args...> arguments{argument<Args>(I)...};
    frame = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    const std::uint64_t n_threads = std::uint64_t(size.x) * size.y;
    for (std::uint64_t i = 0; i < n_threads; i++) {
        const std::uint64_t thread = reverse ? n_threads - 1 - i : i;
        const metal::uint2 at = {metal::uint(thread % size.x), metal::uint(thread / size.x)};
        is_running = true;
        kernel(at, size, std::get<I>(arguments)...);
        is_running = false;
    }
}

// Every kernel begins with its thread's place in the grid and the size of that.
template <class... Args> void launch(Kernel<Args...> kernel, metal::uint2 size, bool reverse) {
    if (sizeof...(Args) != buffers.size()) fail("has another number of buffers than it is given");
    each_thread<Args...>(kernel, std::index_sequence_for<Args...>(), size, reverse);
}

void run(const std::string &name, metal::uint2 size, bool reverse) {
#define ENTRY(NAME)                                                                                                   \
    if (name == #NAME) return launch(NAME, size, reverse);
    ENTRIES
    fail("there is no such kernel");
}

std::vector<std::string> outputs() {
    std::vector<std::string> contents;
    for (const Buffer &buffer : buffers) {
        if (buffer.is_output) contents.emplace_back(reinterpret_cast<char *>(buffer.begin()), buffer.n_bytes);
    }
    return contents;
}

} // namespace

int main(int n_words, char **words) {
    if (n_words != 5) fail("wants a kernel, two sizes and a number of outputs");
    const std::string name = words[1];
    const metal::uint2 size = {metal::uint(std::atoi(words[2])), metal::uint(std::atoi(words[3]))};
    const std::size_t n_outputs = std::atoi(words[4]);
    for (std::uint64_t head[2]; std::fread(head, sizeof head, 1, stdin) == 1;) {
        Buffer buffer = {nullptr, head[1] % 16, head[0], buffers.size() < n_outputs};
        buffer.memory = static_cast<unsigned char *>(std::aligned_alloc(16, (buffer.lead + buffer.n_bytes) / 16 * 16 + 16));
        if (std::fread(buffer.begin(), 1, buffer.n_bytes, stdin) != buffer.n_bytes) fail("a buffer is cut off");
        buffers.push_back(buffer);
    }
    const std::vector<std::string> before = outputs();
    run(name, size, false);
    const std::vector<std::string> ascending = outputs();
    for (std::size_t i = 0; i < n_outputs; i++) std::memcpy(buffers[i].begin(), before[i].data(), before[i].size());
    run(name, size, true);
    if (outputs() != ascending) fail("depends on the order of threads");
    for (const std::string &output : ascending) std::fwrite(output.data(), 1, output.size(), stdout);
}
