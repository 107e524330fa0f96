import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import pygrade.Pygrade;

/**
 * java Rank LIBRARY POLICY_DIR REQUESTS PAGES: ranks every request of a file and writes the pages, both in the format of
 * examples/request_file.py, in virtual threads while the policy is reloaded.
 */
public final class Rank {
  private static final int CONTEXT = 1, MASK = 2, BOOST_MUL = 4, BOOST_ADD = 8, GROUPS = 16, SCENARIO = 32;
  private static final int EXPLORE = 64, VALUES = 128, ITEM_VALUES = 256, NAMES = 512;

  private static float[] floats(ByteBuffer from, int count) {
    float[] taken = new float[count];
    for (int i = 0; i < count; ++i) taken[i] = from.getFloat();
    return taken;
  }

  private static int[] integers(ByteBuffer from, int count) {
    int[] taken = new int[count];
    for (int i = 0; i < count; ++i) taken[i] = from.getInt();
    return taken;
  }

  private static byte[] bytes(ByteBuffer from, int count) {
    byte[] taken = new byte[count];
    from.get(taken);
    from.position(from.position() + (4 - count % 4) % 4);
    return taken;
  }

  private static Pygrade.Request read(ByteBuffer from, int[] head, int features, int tasks, Pygrade ranker) {
    int n = head[0], parts = head[2], columns = head[3];
    Pygrade.Request request = new Pygrade.Request();
    if ((parts & CONTEXT) != 0) request.context = floats(from, features);
    request.predictions = floats(from, n * tasks);
    if ((parts & MASK) != 0) request.mask = bytes(from, n);
    if ((parts & BOOST_MUL) != 0) request.boostMul = floats(from, n);
    if ((parts & BOOST_ADD) != 0) request.boostAdd = floats(from, n);
    if ((parts & GROUPS) != 0) request.groups = integers(from, n * columns);
    if ((parts & GROUPS) != 0) request.caps = integers(from, columns);
    if ((parts & VALUES) != 0) request.values = floats(from, tasks);
    if ((parts & ITEM_VALUES) != 0) request.itemValues = floats(from, n);
    if ((parts & NAMES) != 0) {
      String names = new String(bytes(from, 8 * n), StandardCharsets.UTF_8);
      request.itemIds = new long[n];
      for (int i = 0; i < n; ++i) request.itemIds[i] = ranker.stableId(names.substring(8 * i, 8 * i + 8));
    }
    if ((parts & SCENARIO) != 0) request.scenario = new String(bytes(from, head[4]), StandardCharsets.UTF_8);
    request.explore = (parts & EXPLORE) != 0;
    if (request.explore) request.draw = (long) head[5] << 32 | Integer.toUnsignedLong(head[6]);
    return request;
  }

  private static void write(ByteBuffer to, Pygrade.Page page) {
    to.putInt(page.indices().length).putInt(page.filled());
    to.putInt(page.fallback() ? 1 : 0).putInt(page.explored() ? 1 : 0);
    to.putInt((int) (page.draw() >>> 32)).putInt((int) page.draw()).putInt(page.missingItems());
    to.putFloat(page.mixtureWeight()).put(page.policyVersion().getBytes(StandardCharsets.US_ASCII));
    for (float value : page.values()) to.putInt(Float.floatToRawIntBits(value));
    for (int index : page.indices()) to.putInt(index);
    for (float weight : page.weights()) to.putInt(Float.floatToRawIntBits(weight));
    for (float value : page.concentration()) to.putInt(Float.floatToRawIntBits(value));
  }

  private static ByteBuffer buffer(byte[] content) {
    return ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN);
  }

  private static void run(String library, String directory, Path requests, Path pages) throws Exception {
    try (Pygrade ranker = new Pygrade(Path.of(library), directory)) {
      ByteBuffer from = buffer(Files.readAllBytes(requests)).position(8);
      int count = from.getInt(), features = from.getInt(), tasks = from.getInt();
      List<Future<Pygrade.Page>> ranked = new ArrayList<>();
      int size = 16;
      try (var threads = Executors.newVirtualThreadPerTaskExecutor()) {
        for (int i = 0; i < count; ++i) {
          int[] head = integers(from, 7);
          Pygrade.Request request = read(from, head, features, tasks, ranker);
          ranked.add(threads.submit(() -> ranker.rank(request, head[1])));
          size += 44 + 8 * head[1] + 8 * tasks;
          if (i % 100 == 0) ranker.reload(directory);
        }
      }
      ByteBuffer out = buffer(new byte[size]);
      out.put("PGPAG001".getBytes(StandardCharsets.US_ASCII)).putInt(count).putInt(tasks);
      for (Future<Pygrade.Page> page : ranked) write(out, page.get());
      Files.write(pages, out.array());
      System.out.println("Java: " + count + " pages by pygrade " + ranker.version());
    }
  }

  public static void main(String[] arguments) throws Exception {
    if (arguments.length != 4) {
      System.err.println("usage: Rank LIBRARY POLICY_DIR REQUESTS PAGES");
      System.exit(2);
    }
    try {
      run(arguments[0], arguments[1], Path.of(arguments[2]), Path.of(arguments[3]));
    } catch (IllegalArgumentException | IOException failure) {
      System.err.println(failure.getMessage());
      System.exit(2);
    }
  }
}
