import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;

/** What langchain4j and Spring AI build on: the JDK's client, which offers HTTP/2 in every request in clear text. */
public class JdkClient {
    static final String URL = System.getenv("URL");
    static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] arguments) throws Exception {
        String json = "{\"model\": \"dall-e-3\", \"prompt\": \"a fox\", \"size\": \"1024x1024\", \"quality\": \"hd\","
            + " \"style\": \"vivid\", \"n\": 1, \"response_format\": \"b64_json\"}";
        post("/v1/images/generations", "application/json", json.getBytes(StandardCharsets.UTF_8));

        // openai-java leaves the filename out where it is given a stream or bytes.
        ByteArrayOutputStream form = new ByteArrayOutputStream();
        part(form, "name=\"image\"\r\nContent-Type: application/octet-stream", Files.readAllBytes(Path.of("picture.png")));
        part(form, "name=\"prompt\"", "a fox".getBytes(StandardCharsets.UTF_8));
        form.write("--x--\r\n".getBytes(StandardCharsets.US_ASCII));
        post("/v1/images/edits", "multipart/form-data; boundary=x", form.toByteArray());
    }

    static void part(ByteArrayOutputStream form, String headers, byte[] content) throws Exception {
        form.write(("--x\r\nContent-Disposition: form-data; " + headers + "\r\n\r\n").getBytes(StandardCharsets.US_ASCII));
        form.write(content);
        form.write("\r\n".getBytes(StandardCharsets.US_ASCII));
    }

    static void post(String path, String type, byte[] body) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(URL + path))
            .header("content-type", type)
            .timeout(Duration.ofMinutes(2))
            .POST(HttpRequest.BodyPublishers.ofByteArray(body))
            .build();
        HttpResponse<String> answer = CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
        boolean image = answer.body().contains("\"b64_json\":\"iVBOR");
        System.out.println(answer.statusCode() + " " + answer.version() + " " + (image ? "image" : answer.body()));
    }
}
