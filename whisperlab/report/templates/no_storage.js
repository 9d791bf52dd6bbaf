for (const name of ["localStorage", "sessionStorage"]) Object.defineProperty(window, name, { value: { getItem: () => null, setItem() {}, removeItem() {}, clear() {} } });
