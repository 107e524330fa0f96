import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_FLOAT;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.invoke.MethodHandle;
import java.nio.file.Path;

/**
 * Rank LIBRARY POLICY_DIR: ranks 40 made-up candidates by the C ABI and the foreign function API of Java 22, and prints
 * the page: a candidate and the bits of its score a line.
 */
public final class Rank {
  private static final long REQUEST_BYTES = 216, PAGE_BYTES = 168; // of the structs of pygrade.h
  private static final Arena ARENA = Arena.global();
  private static SymbolLookup library;

  private static MethodHandle function(String name, MemoryLayout result, MemoryLayout... parameters) {
    return Linker.nativeLinker()
        .downcallHandle(library.find(name).orElseThrow(), FunctionDescriptor.of(result, parameters));
  }

  /** A struct of so many bytes that begins with its size; members are set at their offsets in pygrade.h. */
  private static MemorySegment struct(long bytes) {
    MemorySegment made = ARENA.allocate(bytes, 8);
    made.set(JAVA_LONG, 0, bytes);
    return made;
  }

  private static void check(int status, MemorySegment error) {
    if (status == 0) return;
    System.err.println(error.getString(0));
    System.exit(2);
  }

  public static void main(String[] arguments) throws Throwable {
    library = SymbolLookup.libraryLookup(Path.of(arguments[0]), ARENA);
    MethodHandle load = function("pygrade_ranker_load", JAVA_INT, ADDRESS, ADDRESS, ADDRESS);
    MethodHandle rank = function("pygrade_ranker_rank", JAVA_INT, ADDRESS, ADDRESS, ADDRESS);
    MemorySegment error = ARENA.allocate(256), options = struct(32), to = ARENA.allocate(ADDRESS);
    options.set(ADDRESS, 16, error);
    options.set(JAVA_LONG, 24, 256);
    check((int) load.invokeExact(ARENA.allocateFrom(arguments[1]), options, to), error);
    MemorySegment ranker = to.get(ADDRESS, 0);
    long features = (long) function("pygrade_ranker_num_features", JAVA_LONG, ADDRESS).invokeExact(ranker);
    long tasks = (long) function("pygrade_ranker_num_tasks", JAVA_LONG, ADDRESS).invokeExact(ranker);

    MemorySegment context = ARENA.allocate(JAVA_FLOAT, features), prices = ARENA.allocate(JAVA_FLOAT, 40);
    MemorySegment predictions = ARENA.allocate(JAVA_FLOAT, 40 * tasks);
    for (long i = 0; i < features; ++i) context.setAtIndex(JAVA_FLOAT, i, 0.5f);
    for (long i = 0; i < 40; ++i) prices.setAtIndex(JAVA_FLOAT, i, 1 + i % 8);
    for (long i = 0; i < 40 * tasks; ++i) predictions.setAtIndex(JAVA_FLOAT, i, (1 + i * 7 % 50) / 64f);
    MemorySegment request = struct(REQUEST_BYTES), page = struct(PAGE_BYTES);
    request.set(ADDRESS, 8, context);
    request.set(JAVA_LONG, 16, features);
    request.set(ADDRESS, 24, predictions);
    request.set(JAVA_LONG, 32, 40);
    request.set(JAVA_LONG, 40, tasks);
    request.set(ADDRESS, 136, prices);
    request.set(ADDRESS, 144, error);
    request.set(JAVA_LONG, 152, 256);
    MemorySegment scores = ARENA.allocate(JAVA_FLOAT, 10), indices = ARENA.allocate(JAVA_INT, 10);
    page.set(JAVA_LONG, 8, 10);
    page.set(ADDRESS, 16, scores);
    page.set(ADDRESS, 24, indices);
    check((int) rank.invokeExact(ranker, request, page), error);
    for (int i = 0; i < 10; ++i) {
      int bits = Float.floatToRawIntBits(scores.getAtIndex(JAVA_FLOAT, i));
      System.out.printf("%d %08x%n", indices.getAtIndex(JAVA_INT, i), bits);
    }
  }
}
