"""The controller: turns AuditPipelines into running, certified, registered and watched webhooks."""
