"""Language models as authors: conversations, clients, roles, the record of paid calls. Network only where one is configured."""
