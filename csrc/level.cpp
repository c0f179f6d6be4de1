// The best instruction set that both this build and this processor have: the suffix of the kernels to call.
extern "C" __attribute__((visibility("default"))) const char* native_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return "avx512";
    if (avx2) return "avx2";
#endif
    return "baseline";
}
