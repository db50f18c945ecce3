/* A server on wolfSSL, which knows nothing of this project: an external PSK, TLS 1.3, one line to each client that is in.
 *   cc wolfssl-server.c -lwolfssl -o server; MILAGRO_KEY=<64 hexadecimal digits> ./server <port> <identity> */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *identity, *suite = "TLS13-AES128-GCM-SHA256";
static unsigned char key[32];

static unsigned int psk_for(WOLFSSL *ssl, const char *offered, unsigned char *out, unsigned int out_max,
                            const char **suite_out) {
  (void)ssl;
  if (strcmp(offered, identity) != 0) {
    fprintf(stderr, "unknown identity\n");
    return 0;
  }
  if (sizeof key > out_max) return 0;
  memcpy(out, key, sizeof key);
  *suite_out = suite;
  return sizeof key;
}

static int failed(const char *what) {
  fprintf(stderr, "%s\n", what);
  return 1;
}

int main(int argc, char **argv) {
  const char *hex = getenv("MILAGRO_KEY");
  if (argc != 3 || hex == NULL || strlen(hex) != 2 * sizeof key) return failed("usage");
  for (size_t i = 0; i < sizeof key; i++)
    if (sscanf(hex + 2 * i, "%2hhx", &key[i]) != 1) return failed("usage");
  identity = argv[2];

  wolfSSL_Init();
  WOLFSSL_CTX *context = wolfSSL_CTX_new(wolfTLSv1_3_server_method());
  wolfSSL_CTX_set_cipher_list(context, suite);
  wolfSSL_CTX_set_psk_server_tls13_callback(context, psk_for);

  int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 4) != 0) return failed("listen");
  fprintf(stderr, "listening\n");
  for (;;) {
    int connection = accept(fd, NULL, NULL);
    WOLFSSL *ssl = wolfSSL_new(context);
    wolfSSL_set_fd(ssl, connection);
    if (wolfSSL_accept(ssl) == WOLFSSL_SUCCESS) {
      wolfSSL_write(ssl, "welcome", 7);
      wolfSSL_shutdown(ssl);
    } else {
      fprintf(stderr, "%s\n", wolfSSL_ERR_reason_error_string((unsigned long)wolfSSL_get_error(ssl, 0)));
    }
    wolfSSL_free(ssl);
    close(connection);
  }
}
