/* A client and a server on wolfSSL, which knows nothing of this project: an external PSK, TLS 1.3, one line from the server.
 *   cc wolfssl.c -lwolfssl -o wolfssl; MILAGRO_KEY=<64 hexadecimal digits> ./wolfssl client <port> <identity>
 *                                      MILAGRO_KEY=<the same>              ./wolfssl server <port> <identity> */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SUITE "TLS13-AES128-GCM-SHA256"

static const char *identity;
static unsigned char key[32];

static unsigned int psk_of_client(WOLFSSL *ssl, const char *hint, char *id, unsigned int id_max, unsigned char *out,
                                  unsigned int out_max, const char **suite) {
  (void)ssl;
  (void)hint;
  if (strlen(identity) >= id_max || sizeof key > out_max) return 0;
  strcpy(id, identity);
  memcpy(out, key, sizeof key);
  *suite = SUITE;
  return sizeof key;
}

static unsigned int psk_at_server(WOLFSSL *ssl, const char *offered, unsigned char *out, unsigned int out_max,
                                  const char **suite) {
  (void)ssl;
  if (strcmp(offered, identity) != 0 || sizeof key > out_max) return 0;
  memcpy(out, key, sizeof key);
  *suite = SUITE;
  return sizeof key;
}

static int failed(const char *what) {
  fprintf(stderr, "%s\n", what);
  return 1;
}
static int tls_failed(WOLFSSL *ssl) {
  char why[WOLFSSL_MAX_ERROR_SZ];
  return failed(wolfSSL_ERR_error_string((unsigned long)wolfSSL_get_error(ssl, 0), why));
}

static int client(WOLFSSL *ssl) {
  if (wolfSSL_connect(ssl) != WOLFSSL_SUCCESS) return tls_failed(ssl);
  char line[256];
  int length = wolfSSL_read(ssl, line, sizeof line - 1);
  if (length <= 0) return failed("closed");
  printf("%s %.*s\n", wolfSSL_get_cipher(ssl), length, line);
  return 0;
}

static int server(WOLFSSL *ssl) {
  if (wolfSSL_accept(ssl) != WOLFSSL_SUCCESS) return tls_failed(ssl);
  wolfSSL_write(ssl, "welcome", 7);
  wolfSSL_shutdown(ssl);
  return 0;
}

int main(int argc, char **argv) {
  const char *hex = getenv("MILAGRO_KEY");
  if (argc != 4 || hex == NULL || strlen(hex) != 2 * sizeof key) return failed("usage");
  for (size_t i = 0; i < sizeof key; i++)
    if (sscanf(hex + 2 * i, "%2hhx", &key[i]) != 1) return failed("usage");
  int serves = strcmp(argv[1], "server") == 0, on = 1;
  identity = argv[3];

  wolfSSL_Init();
  WOLFSSL_CTX *context = wolfSSL_CTX_new(serves ? wolfTLSv1_3_server_method() : wolfTLSv1_3_client_method());
  wolfSSL_CTX_set_cipher_list(context, SUITE);
  if (serves) {
    wolfSSL_CTX_set_psk_server_tls13_callback(context, psk_at_server);
  } else {
    /* No certificate will do. */
    wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_PEER, NULL);
    wolfSSL_CTX_set_psk_client_tls13_callback(context, psk_of_client);
  }

  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[2]))};
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (!serves && connect(fd, (struct sockaddr *)&at, sizeof at) != 0) return failed("connect");
  if (serves && (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 4) != 0)) return failed("listen");
  if (serves) fprintf(stderr, "listening\n");
  int status;
  do {
    int connection = serves ? accept(fd, NULL, NULL) : fd;
    WOLFSSL *ssl = wolfSSL_new(context);
    wolfSSL_set_fd(ssl, connection);
    status = serves ? server(ssl) : client(ssl);
    wolfSSL_free(ssl);
    close(connection);
  } while (serves);
  return status;
}
