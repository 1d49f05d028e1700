/* Posts one message at a time to a configured URL, without ever waiting: the caller steps it.
 *
 * Only http and https, only that URL: no redirect is followed and no proxy of the environment is used, so that nobody
 * but the configuration decides where messages go. Certificates are verified. */
#ifndef MILLRACE_RECON_WEBHOOK_H
#define MILLRACE_RECON_WEBHOOK_H

#include <poll.h>
#include <stddef.h>

#include "base/err.h"

enum { WEBHOOK_CONNECT_MS = 5000, WEBHOOK_TOTAL_MS = 10000, WEBHOOK_ANSWER_BYTES_MAX = 65536 };

enum sending { SENDING, SENT, SEND_FAILED };

struct webhook;

/* webhook_open prepares posting to url. ca_file: PEM of the authorities to trust, "" the system's. The process may have
 * threads by then, as long as none of them uses libcurl. NULL with err (EX_OSERR). */
struct webhook *webhook_open(const char *url, const char *ca_file, struct err *err);
void webhook_close(struct webhook *w);

/* webhook_start begins to post body[0, len), JSON, under the header `Millrace-Exception: ID`. The body has to stay
 * until the end. Only when nothing is being sent. Returns 0, or -1 with err. */
int webhook_start(struct webhook *w, const char *id, const void *body, size_t len, struct err *err);

/* webhook_step goes on with what was started. SENT: the receiver has answered 2xx. SEND_FAILED with err: anything else;
 * the text never has the URL in it, which may hold a secret. */
enum sending webhook_step(struct webhook *w, struct err *err);

/* webhook_wants is worker_body.wants for what is being sent. */
int webhook_wants(struct webhook *w, struct pollfd *fds, int max, int *timeout_ms);

#endif
