/* The account port on Kafka: recon.anchor_topic. A thread of its own asks how many partitions the topic has, as that
 * question blocks; everything else is done by the caller's. */
#ifndef MILLRACE_RECON_ACCOUNT_KAFKA_H
#define MILLRACE_RECON_ACCOUNT_KAFKA_H

#include "recon/accounts.h"

/* account_kafka_open makes producer and consumer and fills *port. For the life of the process. 0, or -1 with err
 * (EX_CONFIG: a property is refused; EX_OSERR). */
int account_kafka_open(struct account_port *port, const struct config *c, struct err *err);

#endif
