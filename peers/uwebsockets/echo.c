// An echo server on the core of uWebSockets that the Python package `socketify` carries, with no Python on the path:
// this program calls the library's C interface. usage: echo PORT; prints "ready" when it listens.
//
// `/` echoes each message to its sender; `/broadcast` publishes each message to all who are connected there.
//
// The package installs no header: what is declared here is the part of its C interface that is used.

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct options {
    const char *key_file_name, *cert_file_name, *passphrase, *dh_params_file_name, *ca_file_name, *ssl_ciphers;
    int ssl_prefer_low_memory_usage;
};

typedef struct uws_app_s uws_app_t;
typedef struct uws_websocket_s uws_websocket_t;
typedef enum { TEXT = 1, BINARY = 2 } uws_opcode_t;

typedef struct {
    int port;
    const char *host;
    int options;
} listen_config_t;

typedef struct {
    int compression;
    unsigned int max_payload_length;
    unsigned short idle_timeout;
    unsigned int max_backpressure;
    bool close_on_backpressure_limit, reset_idle_timeout_on_send, send_pings_automatically;
    unsigned short max_lifetime;
    void *upgrade;
    void (*open)(uws_websocket_t *, void *);
    void (*message)(uws_websocket_t *, const char *, size_t, uws_opcode_t, void *);
    void *drain, *ping, *pong, *close, *subscription;
} behavior_t;

uws_app_t *uws_create_app(int ssl, struct options);
void uws_ws(int ssl, uws_app_t *, const char *pattern, behavior_t, void *user_data);
void uws_app_listen_with_config(int ssl, uws_app_t *, listen_config_t,
                                void (*)(void *listen_socket, listen_config_t, void *), void *user_data);
void uws_app_run(int ssl, uws_app_t *);
int uws_ws_send(int ssl, uws_websocket_t *, const char *, size_t, uws_opcode_t);
bool uws_ws_subscribe(int ssl, uws_websocket_t *, const char *topic, size_t);
bool uws_publish(int ssl, uws_app_t *, const char *topic, size_t, const char *, size_t, uws_opcode_t, bool compress);

static void echo(uws_websocket_t *socket, const char *message, size_t length, uws_opcode_t opcode, void *unused) {
    (void)unused;
    uws_ws_send(0, socket, message, length, opcode);
}

static void subscribe(uws_websocket_t *socket, void *unused) {
    (void)unused;
    uws_ws_subscribe(0, socket, "all", 3);
}

static void publish(uws_websocket_t *socket, const char *message, size_t length, uws_opcode_t opcode, void *app) {
    (void)socket;
    uws_publish(0, app, "all", 3, message, length, opcode, false);
}

static void listening(void *listen_socket, listen_config_t config, void *unused) {
    (void)unused;
    if (!listen_socket) {
        fprintf(stderr, "echo: port %d is busy\n", config.port);
        exit(2);
    }
    puts("ready");
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: echo PORT\n");
        return 2;
    }
    uws_app_t *app = uws_create_app(0, (struct options){0});
    behavior_t behavior = {.max_payload_length = 64 << 20, .max_backpressure = 64 << 20};
    behavior.message = echo;
    uws_ws(0, app, "/", behavior, NULL);
    behavior.open = subscribe;
    behavior.message = publish;
    uws_ws(0, app, "/broadcast", behavior, app);
    uws_app_listen_with_config(0, app, (listen_config_t){.port = atoi(argv[1]), .host = "0.0.0.0"}, listening, NULL);
    uws_app_run(0, app);
    return 0;
}
