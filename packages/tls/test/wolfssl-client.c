/* A client on wolfSSL, which knows nothing of this project: an external PSK, TLS 1.3, one line from the server.
 *   cc wolfssl-client.c -lwolfssl -o client; MILAGRO_KEY=<64 hexadecimal digits> ./client <port> <identity> */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static const char *identity, *suite = "TLS13-AES128-GCM-SHA256";
static unsigned char key[32];

static unsigned int psk_of(WOLFSSL *ssl, const char *hint, char *id, unsigned int id_max, unsigned char *out,
                           unsigned int out_max, const char **suite_out) {
  (void)ssl;
  (void)hint;
  if (strlen(identity) >= id_max || sizeof key > out_max) return 0;
  strcpy(id, identity);
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
  WOLFSSL_CTX *context = wolfSSL_CTX_new(wolfTLSv1_3_client_method());
  wolfSSL_CTX_set_cipher_list(context, suite);
  /* No certificate will do. */
  wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_PEER, NULL);
  wolfSSL_CTX_set_psk_client_tls13_callback(context, psk_of);

  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, (struct sockaddr *)&at, sizeof at) != 0) return failed("connect");

  WOLFSSL *ssl = wolfSSL_new(context);
  wolfSSL_set_fd(ssl, fd);
  char line[256];
  int length = wolfSSL_connect(ssl) == WOLFSSL_SUCCESS ? wolfSSL_read(ssl, line, sizeof line) : -1;
  if (length <= 0) return failed(wolfSSL_ERR_reason_error_string((unsigned long)wolfSSL_get_error(ssl, length)));
  printf("%s %.*s\n", wolfSSL_get_cipher(ssl), length, line);
  return 0;
}
