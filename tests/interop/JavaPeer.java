import java.io.FileInputStream;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * The JDK's own WebSocket (java.net.http) as a client of an echo server; it has no server, and offers no compression.
 * Arguments: {@code client URL echo|told [ca FILE] [most BYTES]}.
 */
public final class JavaPeer {
    private static final int[] SIZES = {1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20};
    private static final String[] PARTS = {"one ", "", "é漢", "😀", " five"};
    private static final int[] PARTS_BINARY = {1, 70_000, 125, 126, 3};
    private static final byte[] PING = new byte[125];
    private static final int SECONDS = 60;

    private static HttpClient client;
    private static URI uri;

    /** What came: a String, bytes, a pong or a close frame. */
    private record Pong(ByteBuffer payload) {}

    private record Close(int code, String reason) {}

    private interface Case {
        void run() throws Exception;
    }

    /** Puts whole messages, pongs and the close frame into a queue. */
    private static final class Inbox implements WebSocket.Listener {
        final BlockingQueue<Object> queue = new LinkedBlockingQueue<>();
        private final StringBuilder text = new StringBuilder();
        private final java.io.ByteArrayOutputStream binary = new java.io.ByteArrayOutputStream();

        @Override
        public CompletionStage<?> onText(WebSocket ws, CharSequence data, boolean last) {
            text.append(data);
            if (last) {
                queue.add(text.toString());
                text.setLength(0);
            }
            ws.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onBinary(WebSocket ws, ByteBuffer data, boolean last) {
            byte[] part = new byte[data.remaining()];
            data.get(part);
            binary.writeBytes(part);
            if (last) {
                queue.add(ByteBuffer.wrap(binary.toByteArray()));
                binary.reset();
            }
            ws.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onPong(WebSocket ws, ByteBuffer payload) {
            byte[] copy = new byte[payload.remaining()];
            payload.get(copy);
            queue.add(new Pong(ByteBuffer.wrap(copy)));
            ws.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onClose(WebSocket ws, int code, String reason) {
            queue.add(new Close(code, reason));
            return null;
        }

        @Override
        public void onError(WebSocket ws, Throwable error) {
            queue.add(error);
        }

        void expect(Object wanted) throws Exception {
            Object got = queue.poll(SECONDS, TimeUnit.SECONDS);
            if (!wanted.equals(got)) {
                throw new Exception("expected " + shorten(wanted) + ", got " + shorten(got));
            }
        }
    }

    private static String shorten(Object value) {
        String text = String.valueOf(value);
        return text.length() <= 100 ? text : text.substring(0, 100) + "...";
    }

    private static WebSocket open(Inbox inbox) throws Exception {
        return client.newWebSocketBuilder().buildAsync(uri, inbox).get(SECONDS, TimeUnit.SECONDS);
    }

    private static void end(WebSocket ws, Inbox inbox, int code, String reason) throws Exception {
        ws.sendClose(code, reason).get(SECONDS, TimeUnit.SECONDS);
        inbox.expect(new Close(code, reason));
    }

    private static void echoText(String say, String wanted) throws Exception {
        Inbox inbox = new Inbox();
        WebSocket ws = open(inbox);
        ws.sendText(say, true).get(SECONDS, TimeUnit.SECONDS);
        inbox.expect(wanted);
        end(ws, inbox, WebSocket.NORMAL_CLOSURE, "");
    }

    private static void fragmentsText() throws Exception {
        Inbox inbox = new Inbox();
        WebSocket ws = open(inbox);
        for (int at = 0; at < PARTS.length; at++) {
            ws.sendText(PARTS[at], at == PARTS.length - 1).get(SECONDS, TimeUnit.SECONDS);
        }
        inbox.expect(String.join("", PARTS));
        end(ws, inbox, WebSocket.NORMAL_CLOSURE, "");
    }

    /** Binary parts; one part is a whole message. */
    private static void echoBinary(int... sizes) throws Exception {
        Inbox inbox = new Inbox();
        WebSocket ws = open(inbox);
        byte[] whole = new byte[Arrays.stream(sizes).sum()];
        new Random(whole.length).nextBytes(whole);
        int sent = 0;
        for (int at = 0; at < sizes.length; at++) {
            ByteBuffer part = ByteBuffer.wrap(whole, sent, sizes[at]);
            ws.sendBinary(part, at == sizes.length - 1).get(SECONDS, TimeUnit.SECONDS);
            sent += sizes[at];
        }
        inbox.expect(ByteBuffer.wrap(whole));
        end(ws, inbox, WebSocket.NORMAL_CLOSURE, "");
    }

    private static void ping() throws Exception {
        Inbox inbox = new Inbox();
        WebSocket ws = open(inbox);
        ws.sendPing(ByteBuffer.wrap(PING)).get(SECONDS, TimeUnit.SECONDS);
        inbox.expect(new Pong(ByteBuffer.wrap(PING)));
        end(ws, inbox, WebSocket.NORMAL_CLOSURE, "");
    }

    private static void closes(int code, String reason) throws Exception {
        Inbox inbox = new Inbox();
        end(open(inbox), inbox, code, reason);
    }

    private static void toldClose() throws Exception {
        Inbox inbox = new Inbox();
        open(inbox).sendText("close 4001 as told", true).get(SECONDS, TimeUnit.SECONDS);
        inbox.expect(new Close(4001, "as told"));
    }

    /** {@code size} bytes of UTF-8 with characters of one to four bytes. */
    private static String text(int size) {
        String block = "0123456789abcdef".repeat(64).substring(0, 1018) + "é漢😀";
        int whole = size / 1027;
        return block.repeat(whole) + "x".repeat(size - whole * 1027);
    }

    private static Map<String, Case> cases(boolean told, int most) {
        Map<String, Case> cases = new LinkedHashMap<>();
        if (told) {
            cases.put("told-fragments", () -> echoText("fragments", String.join("", PARTS)));
            cases.put("told-ping", () -> echoText("ping", "ponged"));
            cases.put("told-close", JavaPeer::toldClose);
            return cases;
        }
        cases.put("open", () -> closes(WebSocket.NORMAL_CLOSURE, ""));
        for (int size : SIZES) {
            if (size <= most) {
                cases.put("echo-text-" + size, () -> echoText(text(size), text(size)));
                cases.put("echo-binary-" + size, () -> echoBinary(size));
            }
        }
        cases.put("fragments-text", JavaPeer::fragmentsText);
        cases.put("fragments-binary", () -> echoBinary(PARTS_BINARY));
        cases.put("ping", JavaPeer::ping);
        cases.put("close-1000", () -> closes(1000, "done"));
        cases.put("close-3000", () -> closes(3000, "the library says so"));
        cases.put("close-4999", () -> closes(4999, "so, é漢😀"));
        return cases;
    }

    private static SSLContext trusting(String file) throws Exception {
        Certificate authority;
        try (InputStream in = new FileInputStream(file)) {
            authority = CertificateFactory.getInstance("X.509").generateCertificate(in);
        }
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        store.setCertificateEntry("ca", authority);
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    private static String quoted(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", " ") + '"';
    }

    private static void say(String line) {
        byte[] bytes = (line + "\n").getBytes(StandardCharsets.UTF_8);
        System.out.write(bytes, 0, bytes.length);
        System.out.flush();
    }

    public static void main(String[] arguments) throws Exception {
        Arrays.fill(PING, (byte) 'p');
        List<String> words = new ArrayList<>(List.of(arguments));
        uri = URI.create(words.get(1));
        HttpClient.Builder builder = HttpClient.newBuilder();
        if (words.contains("ca")) {
            builder.sslContext(trusting(words.get(words.indexOf("ca") + 1)));
        }
        client = builder.build();
        int most = words.contains("most") ? Integer.parseInt(words.get(words.indexOf("most") + 1)) : Integer.MAX_VALUE;
        Map<String, Case> cases = cases(words.contains("told"), most);
        say("{\"plan\": [" + cases.keySet().stream().map(JavaPeer::quoted).collect(Collectors.joining(", ")) + "]}");
        for (Map.Entry<String, Case> entry : cases.entrySet()) {
            long started = System.nanoTime();
            String note = "";
            try {
                entry.getValue().run();
            } catch (Exception error) {
                note = String.valueOf(error);
            }
            double seconds = (System.nanoTime() - started) / 1e9;
            say(String.format("{\"case\": %s, \"ok\": %s, \"seconds\": %.3f, \"note\": %s}",
                    quoted(entry.getKey()), note.isEmpty(), seconds, quoted(note)));
        }
        System.exit(0);
    }
}
