package pygrade;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_BYTE;
import static java.lang.foreign.ValueLayout.JAVA_FLOAT;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemoryLayout.PathElement;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.invoke.MethodHandle;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;

/**
 * A ranker of a policy that pygrade trained, through its C ABI and the foreign function API of Java 22. Any number of
 * threads may use one, also while one of them reloads it.
 */
public final class Pygrade implements AutoCloseable {
  // Structs of the C ABI, field by field in the order of pygrade.h: J a 64-bit integer, I a 32-bit one, F a float, P a
  // pointer, a number that many bytes.
  private static final MemoryLayout OPTIONS = struct("J size", "I flags", "I seed", "P error", "J error_size");
  private static final MemoryLayout SOURCE =
      struct(
          "J size", "P directory", "P json", "J json_size", "P tensors", "J tensors_size", "P error", "J error_size");
  private static final MemoryLayout REQUEST =
      struct(
          "J size", "P context", "J features", "P predictions", "J candidates", "J tasks", "P mask", "P boost_mul",
          "P boost_add", "P groups", "P caps", "J group_columns", "P scenario", "J scenario_size", "J draw", "I flags",
          "I reserved", "P values", "P item_values", "P error", "J error_size", "P items", "J item_columns",
          "P categories", "P embeddings", "J embedding_size", "P item_ids", "P cap_slots", "P decay",
          "P production_scores", "P pins", "P demoted");
  private static final MemoryLayout PAGE =
      struct(
          "J size", "J k", "P values", "P indices", "P weights", "P concentration", "I filled", "I missing_predictions",
          "I fallback", "I explored", "J seed", "16 policy_version", "F mixture_weight", "I verdict", "64 baseline",
          "I searched", "I shuffled", "P effects", "I missing_items", "I reserved");

  private static MemoryLayout struct(String... fields) {
    return MemoryLayout.structLayout(Arrays.stream(fields).map(Pygrade::field).toArray(MemoryLayout[]::new));
  }

  private static MemoryLayout field(String text) {
    String type = text.split(" ")[0], name = text.split(" ")[1];
    return switch (type) {
      case "J" -> JAVA_LONG.withName(name);
      case "I" -> JAVA_INT.withName(name);
      case "F" -> JAVA_FLOAT.withName(name);
      case "P" -> ADDRESS.withName(name);
      default -> MemoryLayout.sequenceLayout(Long.parseLong(type), JAVA_BYTE).withName(name);
    };
  }

  private static final int ERROR_SIZE = 256;

  /** A request of N candidates; what is null is not given. */
  public static final class Request {
    public float[] context; // [F]
    public float[] predictions; // [N, T]
    public byte[] mask; // [N]
    public float[] boostMul; // [N]
    public float[] boostAdd; // [N]
    public int[] groups; // [N, A]
    public int[] caps; // [A]
    public String scenario;
    public boolean explore;
    public Long draw; // of the exploration; null: the ranker's next one
    public float[] values; // [T]
    public float[] itemValues; // [N]
    public long[] itemIds; // [N], stableId of items with names
    public float[] items; // [N, I] by the item columns of the policy, NaN: unknown
    public int[] capSlots; // [A]
    public float[] decay; // [A]
    public int[] pins; // [k]
    public byte[] demoted; // [N]
  }

  /** The best k candidates, with what ranked them. */
  public record Page(
      float[] values,
      int[] indices,
      float[] weights,
      float[] concentration,
      int filled,
      boolean fallback,
      boolean explored,
      long draw,
      float mixtureWeight,
      int missingItems, // item columns that the policy reads and the request lacks: their means stood in
      String policyVersion) {}

  private final Arena arena = Arena.ofShared();
  private final SymbolLookup library;
  private final MethodHandle rank, policyLoad, policyFree, swap, free, stableId;
  private final MemorySegment handle;
  private final int tasks;

  /** Of a policy directory. */
  public Pygrade(Path path, String directory) {
    library = SymbolLookup.libraryLookup(path, arena);
    rank = function("pygrade_ranker_rank", FunctionDescriptor.of(JAVA_INT, ADDRESS, ADDRESS, ADDRESS));
    policyLoad = function("pygrade_policy_load", FunctionDescriptor.of(JAVA_INT, ADDRESS, ADDRESS));
    policyFree = function("pygrade_policy_free", FunctionDescriptor.ofVoid(ADDRESS));
    swap = function("pygrade_ranker_swap", FunctionDescriptor.of(JAVA_INT, ADDRESS, ADDRESS, ADDRESS, JAVA_LONG));
    free = function("pygrade_ranker_free", FunctionDescriptor.ofVoid(ADDRESS));
    stableId = function("pygrade_stable_id", FunctionDescriptor.of(JAVA_LONG, ADDRESS, JAVA_LONG));
    MethodHandle load =
        function("pygrade_ranker_load", FunctionDescriptor.of(JAVA_INT, ADDRESS, ADDRESS, ADDRESS));
    MethodHandle numTasks = function("pygrade_ranker_num_tasks", FunctionDescriptor.of(JAVA_LONG, ADDRESS));
    try (Arena call = Arena.ofConfined()) {
      MemorySegment options = struct(call, OPTIONS), error = error(call, options, OPTIONS), to = call.allocate(ADDRESS);
      check((int) load.invokeExact(call.allocateFrom(directory), options, to), error);
      handle = to.get(ADDRESS, 0);
      tasks = (int) (long) numTasks.invokeExact(handle);
    } catch (Throwable failure) {
      arena.close();
      throw unchecked(failure);
    }
  }

  /** Version of the library that runs. */
  public String version() {
    try {
      MemorySegment text = (MemorySegment) function("pygrade_version", FunctionDescriptor.of(ADDRESS)).invokeExact();
      return text.reinterpret(64).getString(0);
    } catch (Throwable failure) {
      throw unchecked(failure);
    }
  }

  /** The id that the name of an item stands for in a log; plain decimal digits are the number itself. */
  public long stableId(String name) {
    try (Arena call = Arena.ofConfined()) {
      byte[] text = name.getBytes(StandardCharsets.UTF_8);
      return (long) stableId.invokeExact(copy(call, MemorySegment.ofArray(text)), (long) text.length);
    } catch (Throwable failure) {
      throw unchecked(failure);
    }
  }

  /** Replaces the policy while other threads rank. */
  public void reload(String directory) {
    try (Arena call = Arena.ofConfined()) {
      MemorySegment source = struct(call, SOURCE), error = error(call, source, SOURCE), to = call.allocate(ADDRESS);
      set(source, SOURCE, "directory", call.allocateFrom(directory));
      check((int) policyLoad.invokeExact(source, to), error);
      MemorySegment policy = to.get(ADDRESS, 0);
      try {
        check((int) swap.invokeExact(handle, policy, error, (long) ERROR_SIZE), error);
      } finally {
        policyFree.invokeExact(policy);
      }
    } catch (Throwable failure) {
      throw unchecked(failure);
    }
  }

  /** The best k candidates. */
  public Page rank(Request request, int k) {
    int n = request.predictions.length / tasks, columns = request.caps == null ? 0 : request.caps.length;
    fits("predictions", request.predictions.length, n * tasks);
    if (request.mask != null) fits("mask", request.mask.length, n);
    if (request.boostMul != null) fits("boostMul", request.boostMul.length, n);
    if (request.boostAdd != null) fits("boostAdd", request.boostAdd.length, n);
    if (request.groups != null) fits("groups", request.groups.length, n * columns);
    if (request.values != null) fits("values", request.values.length, tasks);
    if (request.itemValues != null) fits("itemValues", request.itemValues.length, n);
    if (request.itemIds != null) fits("itemIds", request.itemIds.length, n);
    int itemColumns = request.items == null || n == 0 ? 0 : request.items.length / n;
    if (request.items != null) fits("items", request.items.length, n * itemColumns);
    if (request.capSlots != null) fits("capSlots", request.capSlots.length, columns);
    if (request.decay != null) fits("decay", request.decay.length, columns);
    if (request.pins != null) fits("pins", request.pins.length, k);
    if (request.demoted != null) fits("demoted", request.demoted.length, n);
    try (Arena call = Arena.ofConfined()) {
      MemorySegment asked = struct(call, REQUEST), error = error(call, asked, REQUEST);
      set(asked, REQUEST, "context", floats(call, request.context));
      set(asked, REQUEST, "features", request.context == null ? 0 : request.context.length);
      set(asked, REQUEST, "predictions", floats(call, request.predictions));
      set(asked, REQUEST, "candidates", n);
      set(asked, REQUEST, "tasks", tasks);
      set(asked, REQUEST, "mask", copy(call, request.mask == null ? null : MemorySegment.ofArray(request.mask)));
      set(asked, REQUEST, "boost_mul", floats(call, request.boostMul));
      set(asked, REQUEST, "boost_add", floats(call, request.boostAdd));
      set(asked, REQUEST, "groups", integers(call, request.groups));
      set(asked, REQUEST, "caps", integers(call, request.caps));
      set(asked, REQUEST, "group_columns", columns);
      if (request.scenario != null) {
        byte[] name = request.scenario.getBytes(StandardCharsets.UTF_8);
        set(asked, REQUEST, "scenario", copy(call, MemorySegment.ofArray(name)));
        set(asked, REQUEST, "scenario_size", name.length);
      }
      set(asked, REQUEST, "draw", request.draw == null ? 0 : request.draw);
      asked.set(JAVA_INT, offset(REQUEST, "flags"), (request.explore ? 1 : 0) | (request.draw == null ? 0 : 2));
      set(asked, REQUEST, "values", floats(call, request.values));
      set(asked, REQUEST, "item_values", floats(call, request.itemValues));
      MemorySegment ids = request.itemIds == null ? null : MemorySegment.ofArray(request.itemIds);
      set(asked, REQUEST, "item_ids", copy(call, ids));
      set(asked, REQUEST, "items", floats(call, request.items));
      set(asked, REQUEST, "item_columns", itemColumns);
      set(asked, REQUEST, "cap_slots", integers(call, request.capSlots));
      set(asked, REQUEST, "decay", floats(call, request.decay));
      set(asked, REQUEST, "pins", integers(call, request.pins));
      set(asked, REQUEST, "demoted", copy(call, request.demoted == null ? null : MemorySegment.ofArray(request.demoted)));

      MemorySegment page = struct(call, PAGE);
      MemorySegment values = call.allocate(JAVA_FLOAT, k), indices = call.allocate(JAVA_INT, k);
      MemorySegment weights = call.allocate(JAVA_FLOAT, tasks), concentration = call.allocate(JAVA_FLOAT, tasks);
      set(page, PAGE, "k", k);
      set(page, PAGE, "values", values);
      set(page, PAGE, "indices", indices);
      set(page, PAGE, "weights", weights);
      set(page, PAGE, "concentration", concentration);
      check((int) rank.invokeExact(handle, asked, page), error);
      return new Page(
          values.toArray(JAVA_FLOAT),
          indices.toArray(JAVA_INT),
          weights.toArray(JAVA_FLOAT),
          concentration.toArray(JAVA_FLOAT),
          page.get(JAVA_INT, offset(PAGE, "filled")),
          page.get(JAVA_INT, offset(PAGE, "fallback")) != 0,
          page.get(JAVA_INT, offset(PAGE, "explored")) != 0,
          page.get(JAVA_LONG, offset(PAGE, "seed")),
          page.get(JAVA_FLOAT, offset(PAGE, "mixture_weight")),
          page.get(JAVA_INT, offset(PAGE, "missing_items")),
          page.getString(offset(PAGE, "policy_version")));
    } catch (Throwable failure) {
      throw unchecked(failure);
    }
  }

  /** No thread may use the ranker any more. */
  @Override
  public void close() {
    try {
      free.invokeExact(handle);
    } catch (Throwable failure) {
      throw unchecked(failure);
    }
    arena.close();
  }

  private MethodHandle function(String name, FunctionDescriptor descriptor) {
    return Linker.nativeLinker().downcallHandle(library.find(name).orElseThrow(), descriptor);
  }

  private static long offset(MemoryLayout layout, String name) {
    return layout.byteOffset(PathElement.groupElement(name));
  }

  /** A struct of zeros that knows its size. */
  private static MemorySegment struct(Arena call, MemoryLayout layout) {
    MemorySegment made = call.allocate(layout);
    made.set(JAVA_LONG, 0, layout.byteSize());
    return made;
  }

  /** Memory for the text of an error: virtual threads may move between a call and pygrade_last_error. */
  private static MemorySegment error(Arena call, MemorySegment struct, MemoryLayout layout) {
    MemorySegment text = call.allocate(ERROR_SIZE);
    set(struct, layout, "error", text);
    set(struct, layout, "error_size", ERROR_SIZE);
    return text;
  }

  private static void set(MemorySegment struct, MemoryLayout layout, String name, long value) {
    struct.set(JAVA_LONG, offset(layout, name), value);
  }

  private static void set(MemorySegment struct, MemoryLayout layout, String name, MemorySegment value) {
    struct.set(ADDRESS, offset(layout, name), value);
  }

  private static MemorySegment floats(Arena call, float[] values) {
    return copy(call, values == null ? null : MemorySegment.ofArray(values));
  }

  private static MemorySegment integers(Arena call, int[] values) {
    return copy(call, values == null ? null : MemorySegment.ofArray(values));
  }

  private static MemorySegment copy(Arena call, MemorySegment values) {
    return values == null ? MemorySegment.NULL : call.allocate(values.byteSize() + 1, 8).copyFrom(values);
  }

  private static void fits(String name, int size, int wanted) {
    if (size != wanted) throw new IllegalArgumentException(name + " has " + size + " entries; expected " + wanted);
  }

  private static void check(int status, MemorySegment error) {
    if (status != 0) throw new IllegalArgumentException(error.getString(0));
  }

  private static RuntimeException unchecked(Throwable failure) {
    return failure instanceof RuntimeException known ? known : new IllegalStateException(failure);
  }
}
