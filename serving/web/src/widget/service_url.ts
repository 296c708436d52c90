/** The address of the service that this file came from. */
export const SERVICE = import.meta.url.replace(/\/[^/]*$/, "");
